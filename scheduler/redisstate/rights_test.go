package redisstate_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/redisstate"
)

// logged is a log that may be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestWithoutRightsOnChannels those in line are served all the same, and whoever
// waits for a lock gets it, a heartbeat later.
func TestWithoutRightsOnChannels(t *testing.T) {
	for name, rights := range map[string]string{
		"no channel":             "resetchannels +@all",
		"neither command":        "allchannels +@all -subscribe -publish",
		"channels of others":     "resetchannels &others:* +@all",
		"to publish, not listen": "allchannels +@all -subscribe",
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t, redistest.Config("user gateway on >secret ~{sub2api}:* "+rights))
			client := redis.NewClient(&redis.Options{
				Addr: server.Addr, Username: "gateway", Password: "secret", Protocol: 2, DisableIdentity: true, ContextTimeoutEnabled: true,
			})
			defer client.Close()
			log := &logged{}
			logger := slog.New(slog.NewTextHandler(log, nil))
			link := redislink.New(client, redislink.Options{Timeout: 5 * time.Second, Logger: logger})
			defer link.Close()
			state := redisstate.New(link, redisstate.Options{Logger: logger})
			defer state.Close()
			n := &node{State: state, t: t}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for range 3 {
				c := places(1, "x")
				first := ask(c)
				// While a node joins, what it gives back may come back for a moment.
				answer := n.acquire(first)
				if answer.Kind == scheduler.Queued {
					var err error
					if answer, err = n.Await(ctx, first.Lease); err != nil {
						t.Fatal(err)
					}
				}
				if answer.Kind != scheduler.Granted {
					t.Fatalf("got %+v, want a slot", answer)
				}
				w := n.line(ask(c))
				n.release(first.Lease)
				began := time.Now()
				if <-w.done; w.err != nil || w.answer.Kind != scheduler.Granted {
					t.Fatalf("%+v, %v", w.answer, w.err)
				}
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("it was served %v after the slot was free", took)
				}
				n.release(w.lease)
			}
			unlock, err := n.Lock(ctx, "l", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(100*time.Millisecond, unlock)
			if unlock, err = n.Lock(ctx, "l", time.Minute); err != nil {
				t.Fatal(err)
			}
			unlock()
			for load, err := n.Load(ctx, "x"); err != nil || load.InUse > 0; load, err = n.Load(ctx, "x") {
				if ctx.Err() != nil {
					t.Fatalf("%d slots are in use, %v", load.InUse, err)
				}
				time.Sleep(50 * time.Millisecond)
			}
			if n := strings.Count(log.String(), "does not let this node listen"); n != 1 || strings.Contains(log.String(), "out of reach") {
				t.Errorf("%d lines say so:\n%s", n, log)
			}
		})
	}
}
