package redisledger_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/journal"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// leave makes a spool's subdirectory as a process leaves it that is killed: with these
// records, and what it had written of another.
func leave(t *testing.T, spool, name string, records ...*billing.Record) {
	t.Helper()
	var frames []byte
	for _, r := range records {
		var err error
		frames, err = journal.AppendFrame(frames, r)
		must(t, err)
	}
	unfinished, err := journal.AppendFrame(nil, exampleOf("unfinished"))
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(spool, name), 0o700))
	must(t, os.WriteFile(filepath.Join(spool, name, "journal-0"), append(frames, unfinished[:len(unfinished)/2]...), 0o600))
}

func examplesOf(ids ...string) (records []*billing.Record) {
	for _, id := range ids {
		records = append(records, exampleOf(id))
	}
	return records
}

// TestUnfinishedRecord was not acknowledged: it ends what a killed process left, and
// neither what was before it is lost, nor what is kept after it.
func TestUnfinishedRecord(t *testing.T) {
	for _, own := range []bool{true, false} {
		inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
			open(t, client).declareAlice(t)
			options := redisledger.Options{Spool: t.TempDir()}
			name := "7" // which the next process takes over
			if own {
				name = "0" // which it uses itself
			}
			leave(t, options.Spool, name, examplesOf("a", "b")...)
			mini.SetError(loading)
			l := openWith(t, client, options)
			l.settle(t, "c")
			l.wantWaiting(t, 3)
			if err := l.close(); err == nil || !strings.Contains(err.Error(), "3 records wait") {
				t.Errorf("Close: %v, want an error that says that 3 records wait", err)
			}
			mini.SetError("")
			l = openWith(t, client, options)
			time.Sleep(time.Second)
			l.wantWaiting(t, 0)
			checkKept(t, client, []string{"a", "b", "c"})
		})
	}
}

// TestTakenOverAfterRedisWentBack: a process was killed together with the Redis that had
// its last records; another process that shares the spool brings them again within 10 s,
// with the credits.
func TestTakenOverAfterRedisWentBack(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		dead := clientOf(t, mini)
		outage := outageOf(dead)
		options := redisledger.Options{Spool: t.TempDir()}
		l := openWith(t, client, options)
		l.declareAlice(t)
		l.settle(t, "known")
		killed := openWith(t, dead, redisledger.Options{})
		useRedis := redistest.Copy(t, client)
		killed.settle(t, "a", "b")
		if _, _, err := killed.Credit(t.Context(), "alice", billing.Credit{ID: "c", Amount: 2 * charge}); err != nil {
			t.Fatal(err)
		}
		outage.is.Store(true) // it is dead from here on
		must(t, os.CopyFS(filepath.Join(options.Spool, "5"), os.DirFS(filepath.Join(killed.spool, "0"))))
		useRedis()
		l.settle(t, "c")
		time.Sleep(11 * time.Second)
		l.wantWaiting(t, 0)
		l.wantSettled(t, 2)
		if ids := recordsIn(t, l, billing.RecordFilter{}); len(ids) != 4 {
			t.Errorf("there are the records %v, want 4", ids)
		}
		wantIdentity(t, client, "alice")

		time.Sleep(45 * time.Second) // and it keeps them for a minute from then
		useRedis()
		time.Sleep(2 * time.Second)
		l.wantSettled(t, 2)
		wantIdentity(t, client, "alice")

		time.Sleep(2 * time.Minute) // and no longer
		if n := sizeOf(options.Spool, "5", "journal-0"); n != 0 {
			t.Errorf("%d bytes are left of what was taken over", n)
		}
		again := openWith(t, client, redisledger.Options{Spool: options.Spool})
		again.settle(t, "d")
		if sizeOf(options.Spool, "1", "journal-0") == 0 {
			t.Error("a new process does not have the subdirectory 1")
		}
	})
}

// TestPrunedDayIsNotTakenOver: records of a day that was deleted since are taken to have
// been settled before, also if somebody reads records while they are taken over.
func TestPrunedDayIsNotTakenOver(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	options := redisledger.Options{Spool: t.TempDir()}
	l := openWith(t, client, options)
	l.declareAlice(t)
	mini.SetTime(today.AddDate(0, 1, 0))
	l.settle(t, "known")
	if n, err := l.Prune(t.Context(), today.AddDate(0, 0, 1)); n != 1 || err != nil {
		t.Fatalf("Prune: %d, %v", n, err)
	}
	const left = 3000
	var ids []string
	for i := range left {
		ids = append(ids, fmt.Sprint(i))
	}
	staging := t.TempDir()
	leave(t, staging, "7", examplesOf(ids...)...)
	taken := "a record that an earlier process left in the spool is of a day that was deleted since"
	must(t, os.Rename(filepath.Join(staging, "7"), filepath.Join(options.Spool, "7")))
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = l.Records(context.Background(), billing.RecordFilter{}, func(*billing.Record) bool { return true })
			}
		}
	})
	l.declareAlice(t) // after which the spool is looked at
	for tries := 0; l.logs.count(taken) < left && tries < 500; tries++ {
		time.Sleep(10 * time.Millisecond)
	}
	close(stop)
	reader.Wait()
	eventually(t, "nothing waits", func() bool { return l.Waiting() == 0 })
	if n := l.logs.count(taken); n < left {
		t.Errorf("the log says it of %d records, want %d", n, left)
	}
	if ids := recordsIn(t, l, billing.RecordFilter{}); len(ids) != 0 {
		t.Errorf("%d records are back", len(ids))
	}
	l.wantSettled(t, 1)
}

// spoolSize is how many bytes all files of a spool have.
func spoolSize(t *testing.T, spool string) (size int64) {
	files, err := filepath.Glob(filepath.Join(spool, "*", "*"))
	must(t, err)
	for _, file := range files {
		size += sizeOf(file)
	}
	return size
}

// TestTakingOverCopiesNothing: a process that is killed while it takes over what others
// left, again and again, must not leave more each time.
func TestTakingOverCopiesNothing(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	options := redisledger.Options{Spool: t.TempDir()}
	const left = 3000
	var ids []string
	for i := range left {
		ids = append(ids, fmt.Sprint(i))
	}
	for _, name := range []string{"0", "5", "6"} {
		leave(t, options.Spool, name, examplesOf(ids...)...)
		for i := range ids {
			ids[i] = name + " " + ids[i]
		}
	}
	open(t, client).declareAlice(t)
	before := spoolSize(t, options.Spool)
	l := openWith(t, client, options)
	eventually(t, "all records are taken", func() bool {
		if now := spoolSize(t, options.Spool); now > before {
			t.Fatalf("the spool has grown from %d bytes to %d", before, now)
		}
		b, err := l.Balance(t.Context(), "alice")
		return err == nil && l.Waiting() == 0 && b.Amount == opening-3*left*charge
	})
}
