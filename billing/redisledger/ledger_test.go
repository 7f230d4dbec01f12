package redisledger_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
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
	conformance(t, func(t *testing.T) redis.UniversalClient { return realRedis(t) }, nil)
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

func conformance(t *testing.T, client func(*testing.T) redis.UniversalClient, follow func(time.Time)) {
	server := client(t)
	ledgertest.Run(t, ledgertest.Harness{
		Fresh: func(t *testing.T, loc *time.Location, clock *ledgertest.Clock) ledgertest.Open {
			if follow != nil {
				clock.Follow(follow)
			}
			options := redisledger.Options{Namespace: namespace(t, server), Location: loc, Now: clock.Now, Spool: t.TempDir()}
			link := redislink.New(server, redislink.Options{Namespace: options.Namespace, Timeout: 20 * time.Second})
			t.Cleanup(link.Close)
			return func(*testing.T) billing.Ledger { return redisledger.New(link, options) }
		},
		OwnTime: follow == nil,
		Shared:  true,
	})
}
