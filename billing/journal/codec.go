package journal

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// Fields are pointers to the record's fields, in the order in which they are
// kept: *string, *int64, *int, *bool, *billing.USD and *billing.Rate. nanos
// stands for the time, in nanoseconds since 1970. Settled is not among them: a record
// gets it when it enters the store.
//
// The order is that of files which older programs wrote: new fields come last.
func Fields(r *billing.Record, nanos *int64) [34]any {
	return [...]any{
		&r.ID, nanos, &r.User, &r.KeyID, &r.Account, &r.Group, &r.Platform, &r.Model, &r.ModelSent, &r.Session,
		&r.Stream, &r.Status, &r.Input, &r.Output, &r.CacheWrite5m, &r.CacheWrite1h, &r.CacheRead, &r.WebSearches,
		&r.InputCost, &r.OutputCost, &r.CacheWriteCost, &r.CacheReadCost, &r.WebSearchCost,
		&r.Cost, &r.RateMultiplier, &r.Charged, &r.Billing, &r.DurationMS, &r.TTFTMS, &r.Attempts,
		&r.UpstreamRequestID, &r.Estimated, &r.Unpriced, &r.UserNumber,
	}
}

// firstFields is how many fields the records of the first program had: those after
// them are zero in a record that ends before.
const firstFields = 33

// Encode appends the record to b: text with its length before it, everything
// else as a signed varint. It takes any record that passes Record.Check.
func Encode(b []byte, r *billing.Record) []byte {
	nanos := r.Time.UnixNano()
	for _, field := range Fields(r, &nanos) {
		switch v := field.(type) {
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
	var nanos int64
	*r = billing.Record{}
	for i, field := range Fields(r, &nanos) {
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
	r.Time = time.Unix(0, nanos).UTC()
	return true
}

func integer(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
