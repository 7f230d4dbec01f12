package redisledger

import (
	"context"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

// TestClaimIsGivenUpWhileRedisIsAsked: what Redis meets then is given back at once.
func TestClaimIsGivenUpWhileRedisIsAsked(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n"})
	stopLoops(l)
	declareAlice(t, l)
	wantMet(t, l, "a", 1)
	l.Release(t.Context(), "a")
	givenUp := false
	client.AddHook(silencer(func(ctx context.Context) error {
		if !givenUp {
			givenUp = true
			l.Release(ctx, "a")
		}
		return nil
	}))
	wantMet(t, l, "a", 100)
	wantHeld(t, l, 0)
	must(t, l.endHolds(t.Context(), l.holds.debts()))
	wantNothingRemembered(t, l)
}

// TestSpoolDrainsWhileRedisIsAsked: a claim that Redis refuses for the sake of
// records which have left the spool meanwhile is put to it again.
func TestSpoolDrainsWhileRedisIsAsked(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n"})
	stopLoops(l)
	declareAlice(t, l)
	wantMet(t, l, "known", 1) // Redis learns the scripts
	l.Release(t.Context(), "known")

	spooled := exampleOf("spooled")
	spooled.Charged = opening
	l.cache.wait(spooled, true)
	ctx, ahead := l.HoldAhead(t.Context(), claim("a", 100))
	client.AddHook(silencer(func(context.Context) error { // on its way
		l.cache.arrived(spooled)
		return nil
	}))
	redispipe.Exec(ctx, client, func(pipe redis.Pipeliner) { pipe.Get(ctx, "anything") })
	if payer, answered, err := ahead(); answered || err != nil {
		t.Errorf("HoldAhead: %q, %v, %v, want it to be asked again", payer, answered, err)
	}
	wantMet(t, l, "a", 100)
	wantHeld(t, l, 100)
}
