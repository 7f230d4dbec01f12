package redisledger_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

func TestLedger(t *testing.T) {
	mini := miniredis.RunT(t)
	conformance(t, func(t *testing.T) redis.UniversalClient {
		return connect(t, &redis.Options{Addr: mini.Addr()})
	}, mini.SetTime)
}

func TestLedgerOnRedis(t *testing.T) {
	conformance(t, realRedis, nil)
}

func TestLedgerOnCluster(t *testing.T) {
	conformance(t, func(t *testing.T) redis.UniversalClient {
		addresses := os.Getenv("SUB2API_TEST_REDIS_CLUSTER")
		if addresses == "" {
			t.Skip("SUB2API_TEST_REDIS_CLUSTER names no servers")
		}
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: strings.Split(addresses, ","), ContextTimeoutEnabled: true})
		t.Cleanup(func() { client.Close() })
		return client
	}, nil)
}

// realRedis connects to the server that the tests are given.
func realRedis(t *testing.T) redis.UniversalClient {
	t.Helper()
	url := os.Getenv("SUB2API_TEST_REDIS")
	if url == "" {
		t.Skip("SUB2API_TEST_REDIS names no server")
	}
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, options)
}

func connect(t testing.TB, options *redis.Options) *redis.Client {
	options.ContextTimeoutEnabled = true
	options.MaxRetries, options.DialerRetries = -1, 1 // a server that is gone is found out at once
	client := redis.NewClient(options)
	t.Cleanup(func() { client.Close() })
	return client
}

func conformance(t *testing.T, client func(*testing.T) redis.UniversalClient, follow func(time.Time)) {
	server := client(t)
	ledgertest.Run(t, ledgertest.Harness{
		Fresh: func(t *testing.T, loc *time.Location, clock *ledgertest.Clock) ledgertest.Open {
			if follow != nil {
				clock.Follow(follow)
			}
			options := redisledger.Options{Namespace: namespace(t, server), Location: loc, Now: clock.Now, Spool: t.TempDir()}
			link := redislink.New(server, redislink.Options{Namespace: options.Namespace, Timeout: 2 * time.Second})
			t.Cleanup(link.Close)
			return func(*testing.T) billing.Ledger { return redisledger.New(link, options) }
		},
		OwnTime: follow == nil,
		Shared:  true,
	})
}

// namespace is a new one, whose keys are deleted after the test.
func namespace(t testing.TB, client redis.UniversalClient) string {
	name := "test-" + uuid.NewString()
	t.Cleanup(func() {
		if err := deleteKeys(client, "{"+name+"}:*"); err != nil {
			t.Logf("deleting the test's keys: %v", err)
		}
	})
	return name
}

func deleteKeys(client redis.UniversalClient, pattern string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	scan := func(ctx context.Context, c *redis.Client) error {
		keys := c.Scan(ctx, 0, pattern, 1000).Iterator()
		for keys.Next(ctx) {
			if err := client.Unlink(ctx, keys.Val()).Err(); err != nil {
				return err
			}
		}
		return keys.Err()
	}
	if cluster, ok := client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, scan)
	}
	return scan(ctx, client.(*redis.Client))
}
