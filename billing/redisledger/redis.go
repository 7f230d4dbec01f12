package redisledger

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

//go:embed lua/settle.lua
var settleSource string

//go:embed lua/declare.lua
var declareSource string

var (
	settleScript  = redis.NewScript(settleSource)
	declareScript = redis.NewScript(declareSource)
)

func (l *Ledger) userKey(name string) string   { return l.prefix + "user:" + name }
func (l *Ledger) daysKey() string              { return l.prefix + "days" }
func (l *Ledger) recordsKey(day string) string { return l.prefix + "records:" + day }
func (l *Ledger) indexKey(day string) string   { return l.prefix + "index:" + day }

// day is the day that a time's records are kept under. Days sort as text does.
func day(t time.Time) string {
	return time.Unix(0, billing.UnixNano(t)).UTC().Format(time.DateOnly)
}

// stampLength is the length of a stamp.
const stampLength = 8

// stamp is a time as bytes that sort as times do.
func stamp(t time.Time) string {
	var b [stampLength]byte
	binary.BigEndian.PutUint64(b[:], uint64(billing.UnixNano(t))^1<<63)
	return string(b[:])
}

// balanceFields are those that parseTold reads.
var balanceFields = []string{"balance", "unlimited", "version"}

// parseTold reads a user's balanceFields; known is false if there is no such
// user.
func parseTold(reply any) (t told, known bool, err error) {
	fields, ok := reply.([]any)
	if !ok || len(fields) != len(balanceFields) {
		return t, false, fmt.Errorf("an unknown answer of Redis for a user: %T %v", reply, reply)
	}
	if fields[0] == nil {
		return t, false, nil
	}
	amount, err := parseInteger(fields[0])
	if err == nil {
		t.version, err = parseInteger(fields[2])
	}
	t.Amount, t.Unlimited = billing.USD(amount), fields[1] == "1"
	return t, true, err
}

func parseInteger(field any) (int64, error) {
	text, _ := field.(string)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("a user's number in Redis is %v", field)
	}
	return n, nil
}

func digit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
