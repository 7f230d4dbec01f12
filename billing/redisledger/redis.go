package redisledger

import (
	"embed"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

//go:embed lua/*.lua
var sources embed.FS

var (
	settleScript  = script("amounts", "settle")
	holdScript    = script("amounts", "sweep", "hold")
	holdsScript   = script("sweep", "holds")
	balanceScript = script("sweep", "balance")
	pruneScript   = script("prune")

	declareScript     = registryScript("declare")
	addUserScript     = registryScript("add_user")
	changeUserScript  = registryScript("change_user")
	removeUserScript  = registryScript("remove_user")
	creditScript      = registryScript("credit")
	profilesScript    = registryScript("profiles")
	addKeyScript      = registryScript("add_key")
	revokeKeyScript   = registryScript("revoke_key")
	loginScript       = registryScript("login")
	subscribeScript   = registryScript("subscribe")
	unsubscribeScript = registryScript("unsubscribe")
)

// script makes a script of its parts.
func script(parts ...string) *redis.Script { return redispipe.Script(sources, parts...) }

func registryScript(name string) *redis.Script { return script("amounts", "sweep", "registry", name) }

func (l *Ledger) key(p purseName) string      { return l.prefix + string(p) }
func (l *Ledger) holdsKey(p purseName) string { return l.prefix + "holds:" + string(p) }

func (l *Ledger) userKey(name string) string          { return l.key(userPurse(name)) }
func (l *Ledger) subscriptionsKey(user string) string { return l.prefix + "subscriptions:" + user }
func (l *Ledger) usersKey() string                    { return l.prefix + "users" }
func (l *Ledger) keysKey() string                     { return l.prefix + "keys" }
func (l *Ledger) keysOfKey(user string) string        { return l.prefix + "keys:" + user }
func (l *Ledger) changesKey() string                  { return l.prefix + "changes" }
func (l *Ledger) lastChangesKey() string              { return l.prefix + "changes:last" }
func (l *Ledger) daysKey() string                     { return l.prefix + "days" }
func (l *Ledger) recordsKey(day string) string        { return l.prefix + "records:" + day }
func (l *Ledger) indexKey(day string) string          { return l.prefix + "index:" + day }

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

// formatTime is a time in nanoseconds since 1970, "" for the zero time.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(billing.UnixNano(t), 10)
}

// parseTime is formatTime's reverse.
func parseTime(field any) (time.Time, error) {
	if field == nil || field == "" {
		return time.Time{}, nil
	}
	nanos, err := parseInteger(field)
	return time.Unix(0, nanos).UTC(), err
}

// balanceFields are those that parseTold reads.
var balanceFields = []string{"balance", "unlimited", "version", "held", "removed"}

// parseTold reads a user's balanceFields; known is false if there is no such
// user, or not any more.
func parseTold(reply any) (t told, known bool, err error) {
	fields, ok := reply.([]any)
	if !ok || len(fields) != len(balanceFields) {
		return t, false, fmt.Errorf("an unknown answer of Redis for a user: %T %v", reply, reply)
	}
	if fields[0] == nil || fields[4] != nil {
		return t, false, nil
	}
	var numbers [3]int64
	for i, field := range []any{fields[0], fields[2], fields[3]} {
		if numbers[i], err = parseInteger(field); err != nil {
			return t, false, err
		}
	}
	t.Amount, t.version, t.Held = billing.USD(numbers[0]), numbers[1], billing.USD(numbers[2])
	t.Unlimited = fields[1] == "1"
	return t, true, nil
}

// parseInteger reads a number; what is not there is 0.
func parseInteger(field any) (int64, error) {
	if field == nil {
		return 0, nil
	}
	text, _ := field.(string)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("a number in Redis is %v", field)
	}
	return n, nil
}

func digit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
