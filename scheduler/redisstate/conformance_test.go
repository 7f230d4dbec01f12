package redisstate_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/redisstate"
	"github.com/sub2api/caddy-sub2api/scheduler/statetest"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// pipeClient connects to a miniredis without a network, so that both can be in
// one bubble.
func pipeClient(t *testing.T, server *miniredis.Miniredis) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr:       "127.0.0.1:6379",
		Dialer:     func(context.Context, string, string) (net.Conn, error) { return server.Dial() },
		MaxRetries: -1,
		Protocol:   2, DisableIdentity: true,
	})
	t.Cleanup(func() { client.Close() })
	return client
}

// stateOver starts a State over a client. Its own link is closed after it.
func stateOver(t testing.TB, client redis.UniversalClient, options redisstate.Options, timeout time.Duration) *redisstate.State {
	link := redislink.New(client, redislink.Options{Namespace: options.Namespace, Timeout: timeout, Logger: quiet})
	t.Cleanup(link.Close)
	options.Logger = quiet
	state := redisstate.New(link, options)
	t.Cleanup(func() { state.Close() })
	state.AccountState("") // it begins to listen
	return state
}

func TestState(t *testing.T) {
	statetest.Run(t, statetest.Harness{
		New: func(t *testing.T) scheduler.State {
			return stateOver(t, pipeClient(t, startMini(t)), redisstate.Options{}, time.Second)
		},
		Bubble: synctest.Test,
		Advance: func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		},
		Settle: synctest.Wait,
	})
}

// TestStateOnRedis runs the suite on a real server, whose clock can't be moved:
// the States' own idea of it is.
func TestStateOnRedis(t *testing.T) {
	url := os.Getenv("SUB2API_TEST_REDIS")
	if url == "" {
		t.Skip("SUB2API_TEST_REDIS names no server")
	}
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	onServer(t, redis.NewClient(options))
}

func TestStateOnCluster(t *testing.T) {
	addresses := os.Getenv("SUB2API_TEST_REDIS_CLUSTER")
	if addresses == "" {
		t.Skip("SUB2API_TEST_REDIS_CLUSTER names no servers")
	}
	onServer(t, redis.NewClusterClient(&redis.ClusterOptions{Addrs: strings.Split(addresses, ",")}))
}

// onServer runs the suite with one node, and with three.
func onServer(t *testing.T, client redis.UniversalClient) {
	t.Cleanup(func() { client.Close() })
	for name, count := range map[string]int{"one node": 1, "three nodes": 3} {
		t.Run(name, func(t *testing.T) { suite(t, client, count) })
	}
}

func suite(t *testing.T, client redis.UniversalClient, count int) {
	var all *nodes
	settle := func() {
		time.Sleep(10 * time.Millisecond)
		all.heartbeat()
		time.Sleep(20 * time.Millisecond)
	}
	statetest.Run(t, statetest.Harness{
		New: func(t *testing.T) scheduler.State {
			namespace := "test-" + uuid.NewString()
			all = &nodes{}
			for range count {
				all.states = append(all.states, stateOver(t, client, redisstate.Options{Namespace: namespace}, 5*time.Second))
			}
			t.Cleanup(func() { redistest.Clean(t, client, "{"+namespace+"}:") })
			return all
		},
		Advance: func(d time.Duration) {
			all.skew(d + 100*time.Millisecond) // what was said took a moment to arrive
			settle()
		},
		Settle: settle,
	})
}
