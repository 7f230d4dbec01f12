package redispipe

import (
	"context"
	"slices"
	"strings"
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

// TestARefusedConnectionIsAnError: what a server says while a connection is set up
// is about all commands that were to go over it.
func TestARefusedConnectionIsAnError(t *testing.T) {
	server := miniredis.RunT(t)
	server.RequireAuth("another")
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), Password: "old", Protocol: 2, MaxRetries: 1})
	defer client.Close()
	ctx := context.Background()
	script := redis.NewScript("return 1")
	reply, err := Run(ctx, client, script, []string{"key"})
	if err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("got %v, %v; want the server's refusal of the password", reply, err)
	}
	var first, rider *redis.Cmd
	answered := false
	carrying := WithRider(ctx, func(pipe redis.Pipeliner, _ Guard) func() {
		rider = script.EvalSha(ctx, pipe, nil)
		return func() { answered = rider.Err() != nil }
	})
	Exec(carrying, client, func(pipe redis.Pipeliner) { first = script.EvalSha(ctx, pipe, nil) })
	if first.Err() == nil || rider.Err() == nil || !answered {
		t.Errorf("the command has %v, its rider %v (answered %t)", first.Err(), rider.Err(), answered)
	}
}
