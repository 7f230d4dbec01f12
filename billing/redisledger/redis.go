package redisledger

import (
	"context"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

//go:embed lua/*.lua
var sources embed.FS

var (
	settleScript    = script("amounts", "budgets", "settle")
	holdScript      = script("amounts", "budgets", "hold")
	holdsScript     = script("budgets", "holds")
	balanceScript   = script("budgets", "balance")
	heartbeatScript = script("budgets", "heartbeat")
	pruneScript     = script("prune")
	pruneDueScript  = script("budgets", "prune_due")
	sealScript      = script("budgets", "seal")

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
func script(parts ...string) *redis.Script { return redislink.Script(sources, parts...) }

func registryScript(name string) *redis.Script { return script("amounts", "budgets", "registry", name) }

func (l *Ledger) key(b budget) string      { return l.prefix + string(b) }
func (l *Ledger) holdsKey(b budget) string { return l.prefix + "holds:" + string(b) }

func (l *Ledger) userKey(name string) string          { return l.key(userBudget(name)) }
func (l *Ledger) subscriptionsKey(user string) string { return l.prefix + "subscriptions:" + user }
func (l *Ledger) usersKey() string                    { return l.prefix + "users" }
func (l *Ledger) keysKey() string                     { return l.prefix + "keys" }
func (l *Ledger) keysOfKey(user string) string        { return l.prefix + "keys:" + user }
func (l *Ledger) changesKey() string                  { return l.prefix + "changes" }
func (l *Ledger) lastChangesKey() string              { return l.prefix + "changes:last" }
func (l *Ledger) daysKey() string                     { return l.prefix + "days" }
func (l *Ledger) recordsKey(day string) string        { return l.prefix + "records:" + day }
func (l *Ledger) indexKey(day string) string          { return l.prefix + "index:" + day }
func (l *Ledger) countKey() string                    { return l.prefix + "settled:" + l.name }
func (l *Ledger) settledKey(day string) string        { return l.prefix + "settled:day:" + day }

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

// timeOf is the time whose stamp a text begins with.
func timeOf(member string) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64([]byte(member[:stampLength]))^1<<63))
}

// formatTime is a time in nanoseconds since 1970, "" for the zero time.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(billing.UnixNano(t), 10)
}

// parseTime is formatTime's reverse.
func parseTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	nanos, err := strconv.ParseInt(text, 10, 64)
	return time.Unix(0, nanos).UTC(), err
}

// ask sends one command.
func ask[T any, C interface{ Result() (T, error) }](ctx context.Context, l *Ledger, send func(redis.Pipeliner) C) (answer T, err error) {
	var cmd C
	if err := l.link.Exec(ctx, redislink.Guard{}, nil, func(pipe redis.Pipeliner) { cmd = send(pipe) }); err != nil {
		return answer, err
	}
	return cmd.Result()
}

// unavailable is err, which is billing.ErrUnavailable too if Redis is down.
func unavailable(err error) error {
	if isOutage(err) {
		return fmt.Errorf("%w: %w", billing.ErrUnavailable, err)
	}
	return err
}

// isOutage reports whether an error is that Redis is down. The link's log says so.
func isOutage(err error) bool {
	var outage *redislink.Outage
	return errors.As(err, &outage)
}

func digit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
