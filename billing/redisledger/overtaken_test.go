package redisledger

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

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
	l.cache.wait(spooled)
	ctx, ask := l.HoldAhead(t.Context(), claim("a", 100))
	redispipe.Exec(ctx, client, func(pipe redis.Pipeliner) { pipe.Get(ctx, "anything") })
	l.cache.arrived(spooled)
	if payer, err := ask(ctx); err != nil || payer != billing.PaidFromBalance {
		t.Errorf("Hold: %q, %v, want it met from the balance", payer, err)
	}
	wantHeld(t, l, 100)
}
