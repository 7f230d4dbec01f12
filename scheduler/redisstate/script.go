package redisstate

import (
	"context"
	"embed"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

//go:embed lua/*.lua
var sources embed.FS

var (
	acquireScript   = script("head", "acquire_fast", "core", "acquire")
	releaseScript   = script("head", "release_fast", "core", "release")
	renewScript     = script("head", "core", "renew")
	heartbeatScript = script("head", "core", "heartbeat")
	joinScript      = script("head", "core", "join")
	changeScript    = script("head", "core", "change")
	restoreScript   = script("head", "core", "restore")
	loadScript      = script("head", "core", "load")
	markScript      = script("head", "mark")
	lockScript      = script("head", "lock")
	unlockScript    = script("head", "unlock")
)

// script makes a script of its parts.
func script(parts ...string) *redis.Script { return redislink.Script(sources, parts...) }

// run runs a script in one round trip. An error is a *redislink.Outage, or what
// Redis said.
func (s *State) run(ctx context.Context, script *redis.Script, args ...any) (any, error) {
	return s.link.Run(ctx, script, s.keys, s.args(args)...)
}

// args puts the clock's skew before a script's arguments.
func (s *State) args(args []any) []any {
	return append([]any{s.skew.Load()}, args...)
}

// The kinds that a script's answer is made of. A server that answers something
// else is none that these scripts ran on.

func list(reply any) []any {
	l, _ := reply.([]any)
	return l
}

func text(l []any, i int) string {
	if i >= len(l) {
		return ""
	}
	switch v := l[i].(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

func integer(l []any, i int) int64 {
	n, _ := strconv.ParseInt(text(l, i), 10, 64)
	return n
}

func milliseconds(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
