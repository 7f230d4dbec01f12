package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

func TestOneStoreHasOneRuntime(t *testing.T) {
	base := t.TempDir()
	if err := os.Symlink(base, filepath.Join(base, "link")); err != nil {
		t.Skipf("no symbolic links here: %v", err)
	}
	join := func(dir string) *gateway.Runtime {
		t.Helper()
		rt, err := joinRuntime(store.Embedded{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { leaveRuntime(rt.Key) })
		return rt
	}
	// The directory does not exist yet.
	first := join(filepath.Join(base, "link", "new", "store"))
	if err := os.MkdirAll(filepath.Join(base, "new", "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, spelling := range []string{"new/store", "link/new/store", "link/link/new/../new/store"} {
		if join(filepath.Join(base, filepath.FromSlash(spelling))) != first {
			t.Errorf("%s has a runtime of its own", spelling)
		}
	}
	if join(filepath.Join(base, "other")) == first {
		t.Error("two stores share a runtime")
	}
	if _, err := joinRuntime(store.Embedded{Dir: filepath.Join(base, "new", "store"), Keeping: store.Keeping{Sync: true}}); err == nil || !strings.Contains(err.Error(), "durability") {
		t.Errorf("another durability: %v", err)
	}
}

func TestDroppedRuntimeIsAdopted(t *testing.T) {
	dir := t.TempDir()
	first, err := joinRuntime(store.Embedded{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if !first.Enter() {
		t.Fatal("a new runtime refuses requests")
	}
	leaveRuntime(first.Key) // a request is still in flight
	second, err := joinRuntime(store.Embedded{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if second != first {
		t.Error("a store that still serves has a second runtime")
	}
	first.Leave()
	if !first.Enter() {
		t.Error("it closed in spite of having been taken back")
	}
	first.Leave()
	leaveRuntime(second.Key)
	<-first.Closed()
	third, err := joinRuntime(store.Embedded{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer leaveRuntime(third.Key)
	if third == first {
		t.Error("a closed runtime is used again")
	}
}

func TestRedisRuntimeSpeaksToItsServerOnceUsed(t *testing.T) {
	server := miniredis.RunT(t)
	plain := store.Redis{
		Network: "tcp", Addresses: []string{server.Addr()}, Namespace: "sub2api", Timeout: time.Second, Spool: t.TempDir(),
		Keeping: store.Keeping{Zone: time.UTC},
	}
	named := func(change func(*store.Redis)) *store.Redis {
		s := plain
		change(&s)
		return &s
	}
	first, err := joinRuntime(&plain)
	if err != nil {
		t.Fatal(err)
	}
	second, err := joinRuntime(named(func(s *store.Redis) { s.Access = store.Access{Username: "default", Password: "pw"} }))
	if err != nil || second != first {
		t.Errorf("another user name makes another runtime: %v", err)
	}
	if _, err := joinRuntime(named(func(s *store.Redis) { s.Refuse = true })); err == nil || !strings.Contains(err.Error(), "on_outage is another than that of the store as it is open now") {
		t.Errorf("another on_outage: %v", err)
	}
	leaveRuntime(second.Key)
	if n := server.TotalConnectionCount(); n != 0 {
		t.Errorf("%d connections before the runtime was used", n)
	}
	if _, err := first.State.Change(t.Context(), "account/main", func(st *scheduler.AccountState) { st.Error = "because" }); err != nil {
		t.Fatal(err)
	}
	other, err := joinRuntime(named(func(s *store.Redis) { s.Database = 1 }))
	if err != nil || other == first {
		t.Errorf("two databases share a runtime: %v", err)
	}
	leaveRuntime(other.Key)
	leaveRuntime(first.Key)
	<-first.Closed()
	for end := time.Now().Add(5 * time.Second); server.CurrentConnectionCount() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are open after the runtime was closed", server.CurrentConnectionCount())
		}
	}
}
