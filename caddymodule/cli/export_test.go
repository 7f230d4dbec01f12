package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"runtime"
	"testing"

	"github.com/sub2api/caddy-sub2api/caddymodule/admin/admintest"
)

func TestTheCommandsHoldNoMillionRows(t *testing.T) {
	ledger := &admintest.Endless{Ledger: admintest.NewLedger(), RowCount: 30_000}
	api := admintest.Serving(t, ledger)
	answer, err := http.Get("http://" + adminServer(t, api) + "/sub2api/records?limit=0")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	inUse := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before, most, lines := inUse(), uint64(0), 0
	out := writerFunc(func(p []byte) (int, error) {
		if n := lines + bytes.Count(p, []byte("\n")); n/10_000 > lines/10_000 {
			most = max(most, inUse())
		}
		lines += bytes.Count(p, []byte("\n"))
		return len(p), nil
	})
	rows := json.NewDecoder(answer.Body)
	if _, err := rows.Token(); err != nil {
		t.Fatal(err)
	}
	if err := printRecords(out, rows); err != nil || lines != ledger.RowCount+1 {
		t.Errorf("%v after %d lines", err, lines)
	}
	if most > before+4<<20 { // of some 15 MB; the server of the test has its share
		t.Errorf("%d bytes are held", most-before)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
