package redislink

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

// noting is an operation that adds to the list "order", and notes its guard.
type noting struct {
	guards   []Guard
	answered int
	err      error
}

func (n *noting) batch() roundtrip.Batch {
	return roundtrip.Batch{Operation(func(pipe redis.Pipeliner, guard Guard) func() {
		cmd := pipe.RPush(context.Background(), "order", "along")
		n.guards = append(n.guards, guard)
		return func() {
			n.answered++
			n.err = cmd.Err()
		}
	})}
}

func TestWhatTravelsAlongFollows(t *testing.T) {
	inBubble(t, func(b *bench) {
		ctx := context.Background()
		trips := 0
		b.set(nil, func(next func() error) error { trips++; return next() })
		first := func(pipe redis.Pipeliner) { pipe.RPush(ctx, "order", "first") }
		guard := Guard{"hash", "field"}
		var along noting
		silent := roundtrip.Batch{Operation(func(pipe redis.Pipeliner, _ Guard) func() { pipe.RPush(ctx, "order", "silent"); return nil })}
		for _, err := range []error{
			b.Exec(ctx, guard, slices.Concat(along.batch(), silent, along.batch()), first),
			b.Exec(ctx, Guard{}, nil, first),
			b.Exec(ctx, Guard{}, along.batch(), first),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		if want := []Guard{guard, guard, {}}; !slices.Equal(along.guards, want) || along.answered != 3 {
			t.Errorf("guards %v, want %v; %d were answered", along.guards, want, along.answered)
		}
		want := []string{"first", "along", "silent", "along", "first", "first", "along"}
		if order, err := b.server.List("order"); !slices.Equal(order, want) || err != nil {
			t.Errorf("order %v, %v, want %v", order, err, want)
		}
		if trips != 3 {
			t.Errorf("%d round trips", trips)
		}
	})
}

// TestRunTeachesTheScript to a server that has none; what travels along does so once.
func TestRunTeachesTheScript(t *testing.T) {
	inBubble(t, func(b *bench) {
		script := redis.NewScript("return redis.call('INCR', KEYS[1])")
		var along noting
		for i := int64(1); i <= 2; i++ {
			if got, err := b.RunAlong(context.Background(), Guard{}, along.batch(), script, []string{"n"}); err != nil || got != i || along.answered != int(i) {
				t.Errorf("run %d: %v, %v; %d answered", i, got, err, along.answered)
			}
		}
	})
}

// TestWhatRedisSaysOfAScript is the script's error, unless nobody is served.
func TestWhatRedisSaysOfAScript(t *testing.T) {
	inBubble(t, func(b *bench) {
		wrong := redis.NewScript("redis.call('SET', KEYS[1], '1') return redis.call('HGET', KEYS[1], 'f')")
		if got, err := b.Run(context.Background(), wrong, []string{"text"}); err == nil || !strings.Contains(err.Error(), "WRONGTYPE") || b.isDown() {
			t.Errorf("%v, %v, down: %v", got, err, b.Down())
		}
		full := redis.NewScript("return redis.error_reply(\"OOM command not allowed when used memory > 'maxmemory'.\")")
		if got, err := b.Run(context.Background(), full, []string{"text"}); err == nil || !strings.Contains(err.Error(), "OOM") || !b.isDown() {
			t.Errorf("%v, %v, down: %v", got, err, b.Down())
		}
	})
}

// TestARefusedConnectionIsAnErrorOfAll commands that were to go over it.
func TestARefusedConnectionIsAnErrorOfAll(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.server.RequireAuth("another")
		var along noting
		var first, second *redis.StatusCmd
		err := b.Exec(context.Background(), Guard{}, along.batch(), func(pipe redis.Pipeliner) {
			first, second = pipe.Ping(context.Background()), pipe.Ping(context.Background())
		})
		for what, err := range map[string]error{"Exec": err, "the first": first.Err(), "the second": second.Err(), "what went along": along.err, "the link": b.Down()} {
			if err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
				t.Errorf("%s has %v", what, err)
			}
		}
		if along.answered != 1 {
			t.Errorf("%d were answered", along.answered)
		}
		b.server.RequireAuth("secret")
		time.Sleep(time.Second)
		b.wantLines(1, 1, 0)
	})
}

// TestACommandDoesNotEndWithItsContext, or nobody would know what it did.
func TestACommandDoesNotEndWithItsContext(t *testing.T) {
	inBubble(t, func(b *bench) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		var cmd *redis.StatusCmd
		if err := b.Exec(ctx, Guard{}, nil, func(pipe redis.Pipeliner) { cmd = pipe.Ping(ctx) }); err != nil || cmd.Err() != nil {
			t.Errorf("%v, %v", err, cmd.Err())
		}
		synctest.Wait()
		b.wantLines(0, 0, 0)
	})
}
