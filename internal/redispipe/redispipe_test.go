package redispipe

import (
	"context"
	"slices"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// TestRiders travel once, behind what carries them, and get its guard.
func TestRiders(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer client.Close()
	ctx := context.Background()
	var guards []Guard
	answered := 0
	rider := func(pipe redis.Pipeliner, guard Guard) func() {
		cmd := pipe.RPush(ctx, "order", "rider")
		guards = append(guards, guard)
		return func() {
			if cmd.Val() > 0 {
				answered++
			}
		}
	}
	carrying := WithRider(WithRider(ctx, rider), rider)
	guarded := WithGuard(carrying, Guard{"hash", "field"})
	first := func(pipe redis.Pipeliner) { pipe.RPush(ctx, "order", "first") }
	Exec(guarded, client, first)
	Exec(guarded, client, first)
	Exec(WithRider(ctx, rider), client, first)
	if want := []Guard{{"hash", "field"}, {"hash", "field"}, {}}; !slices.Equal(guards, want) {
		t.Errorf("guards %v, want %v", guards, want)
	}
	if answered != 3 {
		t.Errorf("%d riders were told of their answers", answered)
	}
	want := []string{"first", "rider", "rider", "first", "first", "rider"}
	if order := client.LRange(ctx, "order", 0, -1).Val(); !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

// TestRunTeachesTheScript to a server that has none.
func TestRunTeachesTheScript(t *testing.T) {
	mini := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	defer client.Close()
	script := redis.NewScript("return redis.call('INCR', KEYS[1])")
	ridden := 0
	ctx := WithRider(context.Background(), func(redis.Pipeliner, Guard) func() {
		ridden++
		return nil
	})
	for i := int64(1); i <= 2; i++ {
		if got, err := Run(ctx, client, script, []string{"n"}); err != nil || got != i {
			t.Errorf("run %d: %v, %v", i, got, err)
		}
	}
	if ridden != 1 {
		t.Errorf("the rider travelled %d times", ridden)
	}
}
