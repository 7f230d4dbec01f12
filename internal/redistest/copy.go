package redistest

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Copy takes a copy of all that a server has at one moment, and returns what puts
// it in the place of what the server has by then: as a replica does that takes over, and
// had not got the last writes. Keys that are made meanwhile are not in it.
func Copy(t testing.TB, client *redis.Client) (restore func()) {
	t.Helper()
	ctx := context.Background()
	keys, err := client.Keys(ctx, "*").Result()
	fatal(t, err)
	kinds := make(map[string]string)
	for _, key := range keys {
		kinds[key] = client.Type(ctx, key).Val()
	}
	read := make(map[string]redis.Cmder)
	_, err = client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		for key, kind := range kinds {
			switch kind {
			case "string":
				read[key] = pipe.Get(ctx, key)
			case "hash":
				read[key] = pipe.HGetAll(ctx, key)
			case "set":
				read[key] = pipe.SMembers(ctx, key)
			case "zset":
				read[key] = pipe.ZRangeWithScores(ctx, key, 0, -1)
			case "list":
				read[key] = pipe.LRange(ctx, key, 0, -1)
			}
		}
		return nil
	})
	if !errors.Is(err, redis.Nil) {
		fatal(t, err)
	}
	return func() {
		t.Helper()
		_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.FlushAll(ctx)
			for key, cmd := range read {
				switch cmd := cmd.(type) {
				case *redis.StringCmd:
					if cmd.Err() == nil {
						pipe.Set(ctx, key, cmd.Val(), 0)
					}
				case *redis.MapStringStringCmd:
					pipe.HSet(ctx, key, cmd.Val())
				case *redis.StringSliceCmd:
					if len(cmd.Val()) == 0 { // it is gone by now
						continue
					} else if kinds[key] == "list" {
						pipe.RPush(ctx, key, cmd.Val())
					} else {
						pipe.SAdd(ctx, key, cmd.Val())
					}
				case *redis.ZSliceCmd:
					if len(cmd.Val()) > 0 {
						pipe.ZAdd(ctx, key, cmd.Val()...)
					}
				}
			}
			return nil
		})
		fatal(t, err)
	}
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
