package caddymodule

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/redis/go-redis/v9"
)

func init() { redis.SetLogger(redisLog{}) }

// redisLog is where the client library writes what it would print: what matters
// of it comes back as errors. It is one for the process, whoever uses Redis.
type redisLog struct{}

// Printf writes a line to Caddy's log, at debug level.
func (redisLog) Printf(_ context.Context, format string, args ...any) {
	caddy.Log().Named("redis").Debug(fmt.Sprintf(format, args...))
}
