package anthropic

import (
	"testing"

	"github.com/tidwall/gjson"
)

// FuzzRaw holds that the walk over raw JSON finds what a parser finds.
func FuzzRaw(f *testing.F) {
	f.Add(`{"a":[1,{"b":"x\"]}"}, [ ] ,null],"content" : "c\\", "n":-1e5}`)
	f.Add(` [ {"text":"t"} , "s" ] `)
	f.Fuzz(func(t *testing.T, text string) {
		if !gjson.Valid(text) || tooDeep([]byte(text)) {
			return
		}
		root := gjson.Parse(text)
		raw := root.Raw
		if root.IsArray() {
			var got []string
			for at, item := range items(raw) {
				if raw[at:at+len(item)] != item {
					t.Fatalf("offset %d of %q in %q", at, item, raw)
				}
				got = append(got, item)
			}
			want := root.Array()
			if len(got) != len(want) {
				t.Fatalf("%d items of %q, want %d", len(got), raw, len(want))
			}
			for i := range want {
				if got[i] != want[i].Raw {
					t.Fatalf("item %d of %q is %q, want %q", i, raw, got[i], want[i].Raw)
				}
			}
		}
		if root.IsObject() {
			seen := map[string]bool{}
			root.ForEach(func(key, value gjson.Result) bool {
				name := key.Raw[1 : len(key.Raw)-1]
				if got := memberOf(raw, name); !seen[name] && got != value.Raw {
					t.Fatalf("%s of %q is %q, want %q", name, raw, got, value.Raw)
				}
				seen[name] = true
				return true
			})
		}
	})
}
