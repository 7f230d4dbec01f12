package anthropic

import (
	"slices"
	"unsafe"
)

// edit replaces a range of a body's bytes.
type edit struct {
	span
	with string
}

// apply returns body with the edits made, every other byte as it was. Without
// edits it is the same slice. Where edits overlap, the one that starts first
// counts.
func apply(body []byte, edits []edit) []byte {
	if len(edits) == 0 {
		return body
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return a.start - b.start })
	size := len(body)
	for _, e := range edits {
		size += len(e.with)
	}
	out := make([]byte, 0, size)
	at := 0
	for _, e := range edits {
		if e.start < at {
			continue
		}
		out = append(out, body[at:e.start]...)
		out = append(out, e.with...)
		at = e.end
	}
	return append(out, body[at:]...)
}

// removeItems makes the edits that take items out of a JSON list or object,
// with the comma that each needs. remove says which items go.
func removeItems(items []span, remove func(i int) bool) []edit {
	var edits []edit
	kept := false
	for i, item := range items {
		if !remove(i) {
			kept = true
			continue
		}
		switch {
		case kept: // with the comma before it
			edits = append(edits, edit{span: span{items[i-1].end, item.end}})
		case i+1 < len(items): // with the comma after it
			edits = append(edits, edit{span: span{item.start, items[i+1].start}})
		default:
			edits = append(edits, edit{span: item})
		}
	}
	return edits
}

// bytesOf returns the bytes of s without a copy; they must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// textOf returns b as a string without a copy; b must not change while it is in
// use.
func textOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
