package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin/admintest"
	"github.com/sub2api/caddy-sub2api/caddymodule/config"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

// zoneDays are when a day begins in these zones, in UTC.
var zoneDays = []struct{ zone, day, want string }{
	{"UTC", "2026-12-31", "2026-12-31T00:00:00Z"},
	{"Pacific/Kiritimati", "2026-12-31", "2026-12-30T10:00:00Z"},
	{"Pacific/Apia", "2026-12-31", "2026-12-30T11:00:00Z"},
	{"Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00Z"}, // the 30th was left out
	{"America/Sao_Paulo", "2026-12-31", "2026-12-31T03:00:00Z"},
	{"America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00Z"}, // clocks went from 0:00 to 1:00
	{"America/Sao_Paulo", "2018-02-18", "2018-02-18T03:00:00Z"}, // and from 0:00 back to 23:00
	{"Africa/Cairo", "2026-12-31", "2026-12-30T22:00:00Z"},
	{"Africa/Cairo", "2023-04-28", "2023-04-27T22:00:00Z"}, // from 0:00 to 1:00
	{"Asia/Beirut", "2022-03-27", "2022-03-26T22:00:00Z"},  // from 0:00 to 1:00
	{"Asia/Beirut", "2026-07-01", "2026-06-30T21:00:00Z"},
	{"Australia/Lord_Howe", "2026-07-01", "2026-06-30T13:30:00Z"},
	{"Australia/Lord_Howe", "2026-12-31", "2026-12-30T13:00:00Z"},
	{"America/New_York", "2026-07-01", "2026-07-01T04:00:00Z"},
	{"America/New_York", "2026-12-31", "2026-12-31T05:00:00Z"},
	{"Asia/Kolkata", "2026-12-31", "2026-12-30T18:30:00Z"},
	{"Etc/GMT+12", "2026-12-31", "2026-12-31T12:00:00Z"},
}

// configOf is a config as a Caddyfile has it.
func configOf(t *testing.T, body string) *config.Config {
	t.Helper()
	c := new(config.Config)
	if err := c.UnmarshalCaddyfile(gatewaytest.Directive(t, body)); err != nil {
		t.Fatal(err)
	}
	return c
}

func zoneOf(t *testing.T, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func TestADateIsItsMidnightInTheZone(t *testing.T) {
	for _, test := range zoneDays {
		zone := zoneOf(t, test.zone)
		got, err := config.ParseMoment(test.day, zone)
		if err != nil || got.Format(time.RFC3339) != test.want || got.Location() != time.UTC {
			t.Errorf("%s in %s: %v, %v; want %s", test.day, test.zone, got, err, test.want)
		}
		// A time with an offset is the same everywhere.
		for text, want := range map[string]string{
			test.want: test.want, "2026-11-01T01:30:00-04:00": "2026-11-01T05:30:00Z", "2026-11-01T00:00:00+14:00": "2026-10-31T10:00:00Z",
		} {
			if got, err := config.ParseMoment(text, zone); err != nil || got.Format(time.RFC3339) != want {
				t.Errorf("%s in %s: %v, %v; want %s", text, test.zone, got, err, want)
			}
		}
		for _, text := range []string{"2026-02-30", "2026-11-01T00:00:00", "2026-11-01 00:00", "1999-12-01", "2200-01-02", "20261101", "2026-1-1", "now"} {
			if got, err := config.ParseMoment(text, zone); err == nil {
				t.Errorf("%q in %s is %v", text, test.zone, got)
			}
		}
	}
}

// Whatever is given a date means the same by it.
func TestEveryDateIsOfTheBillingZone(t *testing.T) {
	for _, test := range zoneDays {
		h := configOf(t, fmt.Sprintf(`
	account max {
		oauth {
			access_token a
			refresh_token r
			expires_at %[1]s
			token_url https://example.com/token
			client_id c
		}
	}
	group pro {
		limits {
			daily 1
		}
	}
	user alice {
		subscribe pro until %[1]s
	}
	billing {
		timezone %[2]s
	}`, test.day, test.zone))
		s, err := h.Build()
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Users["alice"].Subscriptions["pro"].Format(time.RFC3339); got != test.want {
			t.Errorf("until %s in %s: %s, want %s", test.day, test.zone, got, test.want)
		}
		if got := s.Accounts[0].Refresh.ExpiresAt.Format(time.RFC3339); got != test.want {
			t.Errorf("expires_at %s in %s: %s, want %s", test.day, test.zone, got, test.want)
		}

		config := admintest.Config()
		config.Zone = s.Zone
		ledger := admintest.NewLedger()
		rt := admintest.Runtime(t, store.Embedded{Dir: "/store"}, ledger, config)
		address := adminServer(t, &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }})
		out, _, err := command(address, "usage", "--from", test.day, "--json")
		var rows []struct {
			From int64 `json:"input_tokens"` // see admintest.Ledger.Usage
		}
		if err == nil {
			err = json.Unmarshal([]byte(out), &rows)
		}
		if err != nil || len(rows) != 1 || time.Unix(rows[0].From, 0).UTC().Format(time.RFC3339) != test.want {
			t.Errorf("usage --from %s in %s: %s, %v; want %s", test.day, test.zone, out, err, test.want)
		}
		if strings.HasPrefix(test.day, "20") && test.day < "2026-12" { // has passed
			continue
		}
		if out, _, err := command(address, "users", "subscribe", "alice", "team", "--until", test.day); err != nil || !strings.Contains(out, test.want) {
			t.Errorf("subscribe --until %s in %s: %s, %v; want %s", test.day, test.zone, out, err, test.want)
		}
		if _, notes, err := command(address, "keys", "add", "alice", "--expires", test.day); err != nil || !strings.Contains(notes, test.want) {
			t.Errorf("keys add --expires %s in %s: %s, %v; want %s", test.day, test.zone, notes, err, test.want)
		}
	}
}

func TestRecordsOfATimeOfSettling(t *testing.T) {
	ledger := admintest.NewLedger()
	ledger.RecordList = admintest.NewestFirst(4)
	for i := range ledger.RecordList {
		// In another order than they came in.
		ledger.RecordList[i].Settled = time.Date(2026, 11, 26, 4+i, 30, 0, 1000, time.UTC)
	}
	config := admintest.Config()
	config.Zone = zoneOf(t, "America/New_York")
	rt := admintest.Runtime(t, store.Embedded{Dir: "/store"}, ledger, config)
	address := adminServer(t, &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }})
	for words, want := range map[string][]string{
		"": {"r0", "r1", "r2", "r3"},
		"--settled-from 2026-11-26T06:30:00.000001Z":                                 {"r2", "r3"},
		"--settled-to 2026-11-26T06:30:00.000001Z":                                   {"r0", "r1"},
		"--settled-from 2026-11-26":                                                  {"r1", "r2", "r3"}, // 5:00 UTC
		"--settled-from 2026-11-26T06:00:00+01:00 --settled-to 2026-11-26T06:00:00Z": {"r1"},
		"--settled-from 2026-11-26T05:00:00Z --to 2026-11-25T11:59:00Z":              {"r2", "r3"},
		"--settled-to 2026-11-26":                                                    {"r0"},
		"--settled-from 2026-11-27":                                                  nil,
	} {
		out, _, err := command(address, append([]string{"records", "--json"}, strings.Fields(words)...)...)
		var rows []struct{ ID string }
		if err == nil {
			err = json.Unmarshal([]byte(out), &rows)
		}
		var got []string
		for _, row := range rows {
			got = append(got, row.ID)
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("records %s: %v (-want +got):\n%s", words, err, diff)
		}
	}
	api := &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }}
	status, body, _ := admintest.Call(t, api, "GET", "/sub2api/records?settled_from=2026-11-26T09%3A00%3A00%2B02%3A00&limit=1", "")
	if status != http.StatusOK || !strings.Contains(body, `"id":"r3"`) || !strings.Contains(body, `"settled":"2026-11-26T07:30:00.000001Z"`) {
		t.Errorf("%d %s", status, body)
	}
}
