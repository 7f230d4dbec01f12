package journal

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// firstFields is how many fields the records of the first program had: those after
// them are zero in a record that ends before.
const firstFields = 33

// Encode appends the record's fields (billing.Fields) to b: text with its length before it,
// the time in nanoseconds since 1970 and everything else as a signed varint. It takes any record that passes Record.Check.
func Encode(b []byte, r *billing.Record) []byte {
	for i := range billing.Fields {
		switch v := billing.Fields[i].Of(r).(type) {
		case *string:
			b = append(binary.AppendUvarint(b, uint64(len(*v))), *v...)
		case *time.Time:
			b = binary.AppendVarint(b, v.UnixNano())
		case *int64:
			b = binary.AppendVarint(b, *v)
		case *int:
			b = binary.AppendVarint(b, int64(*v))
		case *bool:
			b = binary.AppendVarint(b, integer(*v))
		case *billing.USD:
			b = binary.AppendVarint(b, int64(*v))
		case *billing.Rate:
			b = binary.AppendVarint(b, int64(*v))
		default:
			panic(fmt.Sprintf("journal: no encoding for %T", v))
		}
	}
	return b
}

// Decode is Encode's reverse; it reports whether data begins with a record. What
// follows is the new fields of a newer program, which shares a store with this
// one or was here before it; where an older program made the record, its new fields
// are zero.
func Decode(data []byte, r *billing.Record) bool {
	*r = billing.Record{}
	for i := range billing.Fields {
		field := billing.Fields[i].Of(r)
		if i >= firstFields && len(data) == 0 {
			break
		}
		if text, isText := field.(*string); isText {
			length, n := binary.Uvarint(data)
			if n <= 0 || length > uint64(len(data)-n) {
				return false
			}
			*text = string(data[n : n+int(length)])
			data = data[n+int(length):]
			continue
		}
		number, n := binary.Varint(data)
		if n <= 0 {
			return false
		}
		data = data[n:]
		switch v := field.(type) {
		case *time.Time:
			*v = time.Unix(0, number).UTC()
		case *int64:
			*v = number
		case *int:
			*v = int(number)
		case *bool:
			*v = number != 0
		case *billing.USD:
			*v = billing.USD(number)
		case *billing.Rate:
			*v = billing.Rate(number)
		}
	}
	return true
}

func integer(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
