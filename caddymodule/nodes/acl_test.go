package nodes_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

const aclPassword = "of-the-acl"

// readmeUser is the README's command that makes a user of Redis, for the fleets'
// namespace.
func readmeUser(t *testing.T) []any {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^ACL SETUSER .*$`).FindString(string(text))
	if !strings.Contains(line, "~{sub2api}* &{sub2api}*") {
		t.Fatalf("the README's ACL is %q", line)
	}
	line = strings.NewReplacer("{sub2api}", "{"+namespace+"}", "PASSWORD", aclPassword).Replace(line)
	var words []any
	for _, word := range strings.Fields(line) {
		words = append(words, word)
	}
	return words
}

// withoutChannels leaves out which channels the user may use.
func withoutChannels(words []any) (fewer []any) {
	for _, word := range words {
		if !strings.HasPrefix(word.(string), "&") {
			fewer = append(fewer, word)
		}
	}
	return append(fewer, "resetchannels")
}

// servers are those that a client reaches.
func servers(t *testing.T, client redis.UniversalClient, do func(redis.Cmdable)) {
	t.Helper()
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		do(client)
		return
	}
	var mu sync.Mutex
	if err := cluster.ForEachShard(t.Context(), func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		do(node)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// asACLUser makes the plan's gateways log in as the user of the ACL.
func asACLUser(t *testing.T, p plan, acl []any) plan {
	t.Helper()
	servers(t, p.client, func(node redis.Cmdable) {
		client := node.(interface {
			Do(context.Context, ...any) *redis.Cmd
		})
		if err := client.Do(t.Context(), acl...).Err(); err != nil {
			t.Fatalf("%v: %v", acl, err)
		}
		if err := client.Do(t.Context(), "ACL", "LOG", "RESET").Err(); err != nil {
			t.Fatal(err)
		}
	})
	p.words += "username sub2api\npassword " + aclPassword + "\n"
	return p
}

// wantNoDenials: Redis refused the user nothing but what is in except.
func wantNoDenials(t *testing.T, client redis.UniversalClient, except string) {
	t.Helper()
	servers(t, client, func(node redis.Cmdable) {
		entries, err := node.ACLLog(t.Context(), 128).Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Reason != except {
				t.Errorf("Redis refused %s %q in %s", e.Reason, e.Object, e.Context)
			}
		}
	})
}

// keepBooks does to the ledger, as the user of the ACL, what the admin API can.
func keepBooks(t *testing.T, client redis.UniversalClient) {
	t.Helper()
	link := redislink.New(client, redislink.Options{Namespace: namespace, Timeout: 5 * time.Second})
	t.Cleanup(link.Close)
	ledger := redisledger.New(link, redisledger.Options{Namespace: namespace, Spool: filepath.Join(t.TempDir(), "spool")})
	ctx, now := t.Context(), time.Now()
	key := billing.Key{ID: "0123456789ab", User: "bob", Digest: [32]byte{1}, Prefix: "sk-abcd", Created: now, Limits: billing.Limits{billing.Daily: 1}}
	count := func() int {
		n := 0
		if err := ledger.Records(ctx, billing.RecordFilter{}, func(*billing.Record) bool { n++; return true }); err != nil {
			t.Errorf("reading records: %v", err)
		}
		return n
	}
	if count() == 0 {
		t.Error("there are no records")
	}
	concurrency := 3
	_, _, credited := ledger.Credit(ctx, "u0", billing.Credit{ID: "a", Amount: 1, Time: now})
	_, errUsers := ledger.Users(ctx)
	for what, err := range map[string]error{"crediting": credited, "listing users": errUsers} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"adding a user", func() error { return ledger.AddUser(ctx, billing.User{Name: "bob", Balance: 1, Concurrency: 1}) }},
		{"changing them", func() error { return ledger.ChangeUser(ctx, "bob", billing.UserChange{Concurrency: &concurrency}) }},
		{"adding a key", func() error { return ledger.AddKey(ctx, key) }},
		{"listing keys", func() error { _, err := ledger.Keys(ctx, "bob"); return err }},
		{"subscribing", func() error { return ledger.Subscribe(ctx, "bob", "g", now.Add(time.Hour)) }},
		{"reading windows", func() error { _, err := ledger.Subscription(ctx, "bob", "g"); return err }},
		{"unsubscribing", func() error { return ledger.Unsubscribe(ctx, "bob", "g") }},
		{"revoking the key", func() error { return ledger.RevokeKey(ctx, key.ID) }},
		{"removing the user", func() error { return ledger.RemoveUser(ctx, "bob") }},
		{"summing up", func() error {
			return ledger.Usage(ctx, billing.RecordFilter{}, []billing.Dimension{billing.ByDay}, func(*billing.UsageRow) bool { return true })
		}},
		{"forgetting records", func() error { _, err := ledger.Prune(ctx, now.AddDate(0, 0, -1)); return err }},
		{"closing", ledger.Close},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
	}
}

// crowd sends many requests at once to accounts with few slots, so that most wait,
// and wants all of them answered.
func (f *fleet) crowd(n int) {
	f.t.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if a := f.ask(f.nodes[i%len(f.nodes)], question{stream: i%2 == 0}); !a.whole() {
				f.t.Errorf("%v", a)
			}
		})
	}
	all.Wait()
}

// TestTheREADMEsACL: the gateways need no more of Redis than the README says.
func TestTheREADMEsACL(t *testing.T) {
	redistest.Require(t)
	inLane(t)
	acl := readmeUser(t)
	t.Run("one server", func(t *testing.T) {
		p := asACLUser(t, over(t, redistest.Start(t), accounts("a", 2, 2, sonnet)), acl)
		f := launch(t, p)
		f.crowd(30)
		options := *p.client.(*redis.Client).Options()
		options.Username, options.Password = "sub2api", aclPassword
		user := redis.NewClient(&options)
		defer user.Close()
		keepBooks(t, user)
		f.crowd(6)
		wantNoDenials(t, p.client, "")
		for _, n := range f.nodes {
			if log := n.Log(); strings.Contains(log, "NOPERM") || strings.Contains(log, aclPassword) {
				t.Errorf("the log of gateway %s holds a refusal, or the password", n.Name)
			}
		}
		if err := user.Get(t.Context(), "elsewhere").Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
			t.Errorf("the user may read another key: %v", err)
		}
	})
	t.Run("Cluster", func(t *testing.T) {
		store := stores["Cluster"](t)
		store.accounts = accounts("a", 2, 2, sonnet)
		f := launch(t, asACLUser(t, store.plan, acl))
		f.crowd(30)
		wantNoDenials(t, store.client, "")
		for _, n := range f.nodes {
			if strings.Contains(n.Log(), "NOPERM") {
				t.Errorf("the log of gateway %s holds a refusal", n.Name)
			}
		}
	})
	t.Run("without channels", func(t *testing.T) {
		p := asACLUser(t, over(t, redistest.Start(t), accounts("a", 2, 2, sonnet)), withoutChannels(acl))
		f := launch(t, p)
		f.crowd(30)
		wantNoDenials(t, p.client, "channel")
		for _, n := range f.nodes {
			if times := strings.Count(n.Log(), "does not let this node listen"); times != 1 {
				t.Errorf("the log of gateway %s says %d times that it may not listen, want once", n.Name, times)
			}
		}
	})
}
