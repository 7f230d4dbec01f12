package sqliteledger

import (
	"encoding/binary"
	"fmt"

	"github.com/sub2api/caddy-sub2api/billing"
)

// encode appends the record's columns in their order: text with its length
// before it, everything else as a signed varint.
func encode(b []byte, r *billing.Record) []byte {
	nanos := r.Time.UnixNano()
	columns := targets(r, &nanos)
	for _, column := range columns {
		switch v := column.(type) {
		case *string:
			b = append(binary.AppendUvarint(b, uint64(len(*v))), *v...)
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
			panic(fmt.Sprintf("sqliteledger: no encoding for %T", v))
		}
	}
	return b
}

// decode is encode's reverse; it reports whether data is one whole record.
func decode(data []byte, r *billing.Record) bool {
	var nanos int64
	columns := targets(r, &nanos)
	for _, column := range columns {
		if text, isText := column.(*string); isText {
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
		switch v := column.(type) {
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
	r.Time = unixNano(nanos)
	return len(data) == 0
}
