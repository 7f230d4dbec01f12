//go:build unix

package sqliteledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

func init() { jobsOfChildren["limit"] = settleToTheLimit }

// limitFiles makes files take no more than that many bytes, as a full disk does.
func limitFiles(bytes uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	limit.Cur = min(limit.Max, bytes)
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
}

// settleToTheLimit is a child's job: it settles until nothing more can be recorded,
// goes on when that is over, and prints what it settled before it kills itself.
func settleToTheLimit(dir string) error {
	signal.Ignore(syscall.SIGXFSZ)
	ctx := context.Background()
	l, err := Open(ctx, dir, Options{})
	if err != nil {
		return err
	}
	if err := l.Declare(ctx, []billing.User{{Name: "alice", Balance: opening}}); err != nil {
		return err
	}
	if err := limitFiles(200 << 10); err != nil {
		return err
	}
	n := 0
	settle := func() error {
		err := l.Settle(ctx, childRecord(fmt.Sprintf("%06d", n)), nil)
		if err == nil {
			fmt.Printf("%06d\n", n)
			n++
		}
		return err
	}
	for err = settle(); err == nil; err = settle() {
	}
	if _, holdErr := l.Hold(ctx, aliceRequest("refused")); !errors.Is(err, billing.ErrUnwritable) || !errors.Is(holdErr, billing.ErrUnwritable) {
		return fmt.Errorf("Settle: %w, Hold: %w; want ErrUnwritable of both", err, holdErr)
	}
	if err := limitFiles(1 << 40); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // the file system's own time
		if _, err = l.Hold(ctx, aliceRequest("met")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("Hold: %w, although there is room again", err)
		}
	}
	for range 100 {
		if err := settle(); err != nil {
			return err
		}
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	return self.Kill()
}

// TestFullDisk fills the disk, as far as a process can do that, kills the process
// later, and wants every record that Settle acknowledged.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	child, output := startChild(t, dir, "limit")
	var acknowledged []string
	for output.Scan() {
		acknowledged = append(acknowledged, output.Text())
	}
	if err := child.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("the child ended with %v after %d records", err, len(acknowledged))
	}
	l := open(t, dir, Options{})
	defer l.Close()
	check(t, l)
	recorded := make(map[string]bool)
	for _, r := range ledgertest.List(t, l, billing.RecordFilter{}) {
		recorded[r.ID] = true
	}
	for _, id := range acknowledged {
		if !recorded[id] {
			t.Errorf("record %s was acknowledged and is lost", id)
		}
	}
	if len(acknowledged) < 200 {
		t.Errorf("only %d records were settled", len(acknowledged))
	}
	wantSettled(t, l, len(recorded))
}
