package crashes_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// recovery is how soon requests must be served again once the disk has space. A
// store that could not be opened is tried again every 5 s.
const recovery = 10 * time.Second

// disk is a small file system of its own.
type disk struct {
	t   *testing.T
	dir string
}

// newDisk skips the test where none may be mounted.
func newDisk(t *testing.T) *disk {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a small disk can't be mounted, which takes Linux and root: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
	return &disk{t, dir}
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill takes what space there is.
func (d *disk) fill() {
	d.t.Helper()
	file, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer file.Close()
	for {
		_, err := file.Write(make([]byte, 4096))
		if errors.Is(err, syscall.ENOSPC) {
			return
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

// clear gives it back.
func (d *disk) clear() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}

// fillUntilRefused fills the disk, and what is freed on it, until requests that
// begin then are refused, one after the other.
func (c *clients) fillUntilRefused(d *disk) {
	c.t.Helper()
	before := c.count(unavailable)
	gatewaytest.Within(c.t, 10*time.Second, "requests are refused with 503 while the disk is full", func() bool {
		d.fill()
		return c.count(unavailable) > before+10*clientCount
	})
}

func TestFullDisk(t *testing.T) {
	d := newDisk(t)
	t.Parallel()
	store := filepath.Join(d.dir, "store")
	c := newClients(t)
	g := gatewaytest.Start(t, "A", caddyfile("embedded "+store, c.sim.URL, "hold estimate"))
	c.gateways = []*gatewaytest.Gateway{g}
	g.Wait()
	c.begin(unavailable, failedLate)
	c.wantServed("while there is space", recovery)

	began := time.Now()
	c.fillUntilRefused(d)
	wantExplained(t, g, d.dir, began)
	promised := c.promises()
	d.clear()
	c.wantServed("after there is space again", recovery)
	wantInDatabase(t, store, promised)

	c.fillUntilRefused(d)
	promised = c.promises()
	crash(t, g)
	g.Restart()
	g.Wait()
	c.fillUntilRefused(d)
	d.clear()
	c.wantServed("by the next process, after there is space", recovery)
	wantInDatabase(t, store, promised)
	c.end()
	g.Stop()
	c.wantEmbeddedBooks(store)
}

func TestFullDiskOfTheSpool(t *testing.T) {
	server := redistest.Start(t, redistest.AppendOnly(redistest.Always))
	d := newDisk(t)
	t.Parallel()
	spool := filepath.Join(d.dir, "spool")
	c := newClients(t)
	g := gatewaytest.Start(t, "A", caddyfile(sharedStore(server, spool), c.sim.URL, "hold estimate"))
	c.gateways = []*gatewaytest.Gateway{g}
	g.Wait()
	c.begin(unavailable, failedLate)
	c.wantServed("while there are Redis and space", recovery)
	server.Kill()
	c.wantServed("without Redis", recovery)

	began := time.Now()
	c.fillUntilRefused(d)
	wantExplained(t, g, d.dir, began)
	d.clear()
	c.wantServed("without Redis, after there is space again", recovery)
	c.fillUntilRefused(d)
	server.Restart()
	c.wantServed("by Redis, while the disk is full", recovery)
	c.end()
	d.clear()
	c.wantSharedBooks(server, spool, holdTime+5*time.Second)
}

// wantExplained: the log says what is wrong with which directory, and does not
// say it again and again; what became of a request is said for each.
func wantExplained(t *testing.T, g *gatewaytest.Gateway, dir string, since time.Time) {
	t.Helper()
	var lines []string
	gatewaytest.Within(t, 5*time.Second, "the log says that the disk is full", func() bool {
		lines = nil
		for line := range strings.Lines(g.Log()) {
			if strings.Contains(line, dir) && (strings.Contains(line, "no space left") || strings.Contains(line, "disk is full")) && !strings.Contains(line, `"request_id"`) {
				lines = append(lines, line)
			}
		}
		return len(lines) > 0
	})
	if most := 2 + int(time.Since(since)/time.Second); len(lines) > most {
		t.Errorf("the log says %d times in %v what is wrong with the disk:%s", len(lines), time.Since(since), gatewaytest.List(lines))
	}
	t.Logf("the log says: %s", lines[0])
}

// wantInDatabase waits until the database of a gateway that runs has the records
// of answers.
func wantInDatabase(t *testing.T, store string, promised map[string]*answer) {
	t.Helper()
	db := openDatabase(t, store)
	gatewaytest.Within(t, recovery, "what was promised is in the database", func() bool {
		for id := range promised {
			var found int
			if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM records WHERE id = ?", id).Scan(&found); err != nil {
				t.Fatalf("looking for the record %s: %v", id, err)
			}
			if found == 0 {
				return false
			}
		}
		return true
	})
}
