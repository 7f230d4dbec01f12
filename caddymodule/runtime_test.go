package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOneStoreHasOneRuntime(t *testing.T) {
	base := t.TempDir()
	if err := os.Symlink(base, filepath.Join(base, "link")); err != nil {
		t.Skipf("no symbolic links here: %v", err)
	}
	join := func(dir string) *runtime {
		t.Helper()
		rt, err := joinRuntime(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { leaveRuntime(rt.key) })
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
	if _, err := joinRuntime(filepath.Join(base, "new", "store"), true); err == nil || !strings.Contains(err.Error(), "durability") {
		t.Errorf("another durability: %v", err)
	}
}

func TestDroppedRuntimeIsAdopted(t *testing.T) {
	dir := t.TempDir()
	first, err := joinRuntime(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if !first.enter() {
		t.Fatal("a new runtime refuses requests")
	}
	leaveRuntime(first.key) // a request is still in flight
	second, err := joinRuntime(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if second != first {
		t.Error("a store that still serves has a second runtime")
	}
	first.leave()
	if !first.enter() {
		t.Error("it closed in spite of having been taken back")
	}
	first.leave()
	leaveRuntime(second.key)
	<-first.closed
	third, err := joinRuntime(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer leaveRuntime(third.key)
	if third == first {
		t.Error("a closed runtime is used again")
	}
}
