package admin_test

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin/admintest"
)

func TestRecordsHaveEveryFieldInOrder(t *testing.T) {
	ledger := admintest.NewLedger()
	ledger.RecordList = admintest.NewestFirst(2)
	odd := &ledger.RecordList[1]
	odd.Model, odd.Session, odd.Estimated, odd.Unpriced, odd.RateMultiplier = "=1+1\n<&\"é\xff", "-x", true, true, 1_250_000_000
	api := admintest.Serving(t, ledger)

	want, err := json.Marshal(ledger.RecordList)
	if err != nil {
		t.Fatal(err)
	}
	_, body, header := admintest.Call(t, api, "GET", "/sub2api/records?limit=0", "")
	if got := strings.ReplaceAll(body, "\n", ""); got != string(want) {
		t.Errorf("as JSON:\n%s\nwant\n%s", got, want)
	}
	if got := header.Get("Content-Type"); got != "application/json" {
		t.Errorf("as JSON it is %s", got)
	}

	_, body, header = admintest.Call(t, api, "GET", "/sub2api/records?format=csv", "")
	rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
	if err != nil || len(rows) != 3 || header.Get("Content-Type") != "text/csv; charset=utf-8" {
		t.Fatalf("%v, %d rows, %v", err, len(rows), header)
	}
	var fields []string
	for decoder, depth := json.NewDecoder(bytes.NewReader(want)), 0; depth >= 0; {
		token, err := decoder.Token()
		if err != nil {
			break
		}
		switch token {
		case json.Delim('{'):
			depth = 1
		case json.Delim('}'):
			depth = -1
		default:
			if name, ok := token.(string); ok && depth == 1 && decoder.More() {
				fields = append(fields, name)
				_, _ = decoder.Token()
			}
		}
	}
	if diff := cmp.Diff(fields, rows[0]); diff != "" {
		t.Errorf("header (-JSON +CSV):\n%s", diff)
	}
	at := func(name string) string { return rows[2][slices.Index(rows[0], name)] }
	got := []string{at("id"), at("time"), at("model"), at("session"), at("charged_usd"), at("rate_multiplier"), at("stream"), at("cache_read_tokens")}
	if diff := cmp.Diff([]string{"r1", "2026-11-25T11:59:00.000005Z", "'=1+1\n<&\"é\xff", "'-x", "0.014270100", "1.25", "true", "91011"}, got); diff != "" {
		t.Errorf("a row (-want +got):\n%s", diff)
	}
}

func TestRecordsByPages(t *testing.T) {
	ledger := admintest.NewLedger()
	ledger.RecordList = admintest.NewestFirst(250)
	api := admintest.Serving(t, ledger)
	for query, want := range map[string][2]string{
		"":                            {"r0", "r99"},
		"?after=r99":                  {"r100", "r199"},
		"?after=r199":                 {"r200", "r249"},
		"?limit=0":                    {"r0", "r249"},
		"?limit=1":                    {"r0", "r0"},
		"?to=2026-11-25T11:00:00Z":    {"r61", "r160"},
		"?from=2026-11-25T11:59:00Z":  {"r0", "r1"},
		"?user=alice&after=r3":        {"r4", "r103"},
		"?from=2026-11-25&after=r248": {"r249", "r249"},
	} {
		_, body, _ := admintest.Call(t, api, "GET", "/sub2api/records"+query, "")
		var got []billing.Record
		if err := json.Unmarshal([]byte(body), &got); err != nil || len(got) == 0 {
			t.Errorf("%q: %v: %s", query, err, body)
			continue
		}
		if ends := [2]string{got[0].ID, got[len(got)-1].ID}; ends != want {
			t.Errorf("%q: %v, want %v", query, ends, want)
		}
	}
}

// nowhere is a client that reads everything and keeps nothing.
type nowhere struct {
	header http.Header
	bytes  int
}

func (w *nowhere) Header() http.Header { return w.header }
func (w *nowhere) WriteHeader(int)     {}
func (w *nowhere) Write(p []byte) (int, error) {
	w.bytes += len(p)
	return len(p), nil
}

// heap is what is in use, in bytes.
func heap() uint64 {
	goruntime.GC()
	var stats goruntime.MemStats
	goruntime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// mostKept is how much memory an answer of a million rows may take.
const mostKept = 1 << 20

func TestAMillionRowsAreNotHeld(t *testing.T) {
	for path, rows := range map[string]int{"usage?by=user,model&format=csv": 1_000_000, "records?limit=0": 100_000} {
		ledger := &admintest.Endless{Ledger: admintest.NewLedger(), RowCount: rows}
		api := admintest.Serving(t, ledger)
		before, most := heap(), uint64(0)
		ledger.Each = func(i int) {
			if i%(rows/4) == rows/4-1 {
				most = max(most, heap())
			}
		}
		client := &nowhere{header: http.Header{}}
		if err := api.Serve(client, httptest.NewRequest("GET", "/sub2api/"+path, nil)); err != nil {
			t.Fatal(err)
		}
		if client.bytes < 50*ledger.RowCount {
			t.Errorf("%s: %d bytes", path, client.bytes)
		}
		if most > before+mostKept {
			t.Errorf("%s: %d bytes are held", path, most-before)
		}
	}
}

func TestAnExportThatFails(t *testing.T) {
	broken := errors.New("broken in the middle")
	var log bytes.Buffer
	ledger := &admintest.Endless{Ledger: admintest.NewLedger(), RowCount: 10_000}
	api := admintest.Serving(t, ledger)
	api.Runtimes()[0].Logs.Set(slog.New(slog.NewTextHandler(&log, nil)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := api.Serve(w, r); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	ledger.Fail = broken
	for _, path := range []string{"records", "records?format=csv", "usage", "usage?format=csv"} {
		log.Reset()
		response, err := http.Get(server.URL + "/sub2api/" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil || response.StatusCode != http.StatusOK || len(body) == 0 {
			t.Errorf("%s: status %d and %d bytes, whole", path, response.StatusCode, len(body))
		}
		if !strings.Contains(log.String(), broken.Error()) || !strings.Contains(log.String(), "rows=10000") {
			t.Errorf("%s: the log says %q", path, &log)
		}
	}
	// What fails before anything went out has a status of its own.
	ledger.RowCount = 3
	response, err := http.Get(server.URL + "/sub2api/records")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || response.StatusCode != http.StatusInternalServerError || !strings.Contains(string(body), broken.Error()) {
		t.Errorf("status %d, %v: %s", response.StatusCode, err, body)
	}
}

func TestAnExportEndsWhenItsClientLeaves(t *testing.T) {
	ledger := &admintest.Endless{Ledger: admintest.NewLedger(), RowCount: 1 << 40}
	api := admintest.Serving(t, ledger)
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		_ = api.Serve(w, r)
	}))
	defer server.Close()
	response, err := http.Get(server.URL + "/sub2api/records?limit=0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(response.Body).ReadString('}'); err != nil {
		t.Error(err)
	}
	response.Body.Close()
	<-ended
}
