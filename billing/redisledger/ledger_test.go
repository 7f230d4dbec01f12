package redisledger

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
)

const (
	opening = billing.USD(1e15)
	charge  = 1001
)

func TestLedger(t *testing.T) {
	mini := miniredis.RunT(t)
	var passed time.Duration
	conformance(t, func(t *testing.T) redis.UniversalClient {
		return connect(t, &redis.Options{Addr: mini.Addr()})
	}, func(d time.Duration) {
		passed += d
		mini.SetTime(time.Now().Add(passed))
	})
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

func conformance(t *testing.T, client func(*testing.T) redis.UniversalClient, advance func(time.Duration)) {
	server := client(t)
	for name, spool := range map[string]bool{"with a spool": true, "without a spool": false} {
		t.Run(name, func(t *testing.T) {
			ledgertest.Run(t, ledgertest.Harness{
				Fresh: func(t *testing.T, loc *time.Location) ledgertest.Open {
					options := Options{Namespace: namespace(t, server), Location: loc}
					if spool {
						options.Spool = t.TempDir()
					}
					return func(*testing.T) billing.Ledger { return New(server, options) }
				},
				Advance: advance,
				Shared:  true,
			})
		})
	}
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

func exampleOf(id string) *billing.Record {
	r := ledgertest.Example(id)
	r.Time = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) // of one day, whenever the test runs
	r.Charged = charge
	return r
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func open(t testing.TB, client redis.UniversalClient, options Options) *Ledger {
	t.Helper()
	l := New(client, options)
	t.Cleanup(func() { l.Close() })
	return l
}

// stopLoops ends what the ledger does in the background.
func stopLoops(l *Ledger) {
	l.cancel()
	l.loops.Wait()
}

// claim is of alice's balance, for no more than the amount.
func claim(id string, amount billing.USD) *billing.Claim {
	return &billing.Claim{ID: id, Time: exampleOf(id).Time, User: "alice", Amount: amount, Least: amount}
}

func setAside(l *Ledger, id string, amount billing.USD) error {
	_, err := l.Hold(context.Background(), claim(id, amount))
	return err
}

// wantHeld checks what is set aside of alice's balance.
func wantHeld(t testing.TB, l *Ledger, want billing.USD) {
	t.Helper()
	if b, err := l.Balance(context.Background(), "alice"); err != nil || b.Held != want {
		t.Errorf("%s is set aside, %v; want %s", b.Held, err, want)
	}
}

func declareAlice(t testing.TB, l *Ledger) {
	t.Helper()
	if err := l.Declare(context.Background(), []billing.User{{Name: "alice", Balance: opening}}); err != nil {
		t.Fatal(err)
	}
}

func settle(t testing.TB, l *Ledger, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := l.Settle(context.Background(), exampleOf(id), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// wantSettled checks alice's balance after that many records.
func wantSettled(t testing.TB, l *Ledger, records int) {
	t.Helper()
	balance, err := l.Balance(context.Background(), "alice")
	if want := opening - billing.USD(records*charge); err != nil || balance.Amount != want {
		t.Errorf("balance %s, %v; want %s after %d records", balance.Amount, err, want, records)
	}
}

// wantWaiting waits until that many records wait.
func wantWaiting(t testing.TB, l *Ledger, records int) {
	t.Helper()
	for range 1000 {
		if l.Waiting() == records {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d records wait, want %d", l.Waiting(), records)
}

// checkKept checks in Redis itself that these records, and no others, are there,
// each once, and that alice was charged for each.
func checkKept(t testing.TB, client redis.UniversalClient, namespace string, ids []string) {
	t.Helper()
	l := New(client, Options{Namespace: namespace})
	defer l.Close()
	kept := make(map[string]int)
	err := l.Records(context.Background(), billing.RecordFilter{}, func(r *billing.Record) bool {
		kept[r.ID]++
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if kept[id] != 1 {
			t.Errorf("record %s is there %d times", id, kept[id])
		}
	}
	if len(kept) != len(ids) {
		t.Errorf("%d records, want %d", len(kept), len(ids))
	}
	wantSettled(t, l, len(ids))
}
