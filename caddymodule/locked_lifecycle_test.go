package caddymodule_test

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing/sqliteledger"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

// lockLedger has this process, which is not the gateway's, execute SQL on a store's
// database, and keep what that locks until the function is called.
func lockLedger(t *testing.T, store, statement string) (unlock func()) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(store, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err == nil {
		_, err = conn.ExecContext(ctx, statement)
	}
	if err != nil {
		t.Fatal(err)
	}
	unlock = func() { errors.Join(conn.Close(), db.Close()) }
	t.Cleanup(unlock)
	return unlock
}

// restart begins a process again that has ended, and waits until it answers.
func (s *site) restart(t *testing.T) {
	t.Helper()
	s.cmd, s.log = gatewaytest.Command(t, "run", "--config", s.config, "--adapter", "caddyfile")
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if response, err := http.Get(s.url + "/v1/usage"); err == nil {
			response.Body.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the gateway did not start again\n%s", s.log)
		}
	}
}

// TestServingWhileTheDatabaseIsLocked: kill -9, restart, reload and shutdown
// included. Operators are told what is the matter.
func TestServingWhileTheDatabaseIsLocked(t *testing.T) {
	s := startSite(t, "5s")
	store := filepath.Join(s.dir, "store")
	n := 0
	serve := func() {
		t.Helper()
		const more = 20
		s.streams(t, more, func(answer string, err error) {
			if err != nil || !strings.Contains(answer, "event: message_stop") {
				t.Errorf("a request was not served: %v %.300s\n%s", err, answer, s.log)
			}
		}).Wait()
		n += more
	}
	serve()
	unlock := lockLedger(t, store, "BEGIN EXCLUSIVE")
	serve()
	s.stop(t, syscall.SIGKILL)
	s.restart(t)
	serve()
	s.write(t, s.caddyfile("5s", "user bob {\n\t\t\tbalance 5\n\t\t\tkey sk-bob default\n\t\t}"))
	if cmd, out := gatewaytest.Command(t, "reload", "--config", s.config, "--adapter", "caddyfile", "--address", s.admin); cmd.Run() != nil {
		t.Errorf("caddy reload: %s", out)
	}
	serve()
	if status, _, body := s.ask(t, http.MethodGet, "/v1/usage", ""); status != http.StatusOK {
		t.Errorf("/v1/usage: %d %s", status, body)
	}
	o := &operator{site: s}
	if out := o.run(t, "users list"); !strings.Contains(out, "bob") {
		t.Errorf("the users do not have bob, who was declared meanwhile:\n%s", out)
	}
	for _, words := range []string{"users credit alice 5", "users add carol", "usage", "records", "keys add alice"} {
		began := time.Now()
		_, notes, err := o.try(t, strings.Fields(words)...)
		if err == nil || !strings.Contains(notes, "another program has locked "+filepath.Join(store, "ledger.db")) || strings.Contains(notes, "full or broken") {
			t.Errorf("%s: %v, %s", words, err, notes)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s took %s", words, took)
		}
	}
	response, err := http.Get("http://" + s.admin + "/sub2api/records")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("records: status %d, want 503", response.StatusCode)
	}
	began := time.Now()
	s.stop(t, syscall.SIGTERM)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the shutdown took %s", took)
	}
	unlock()
	if records, _ := s.records(t); len(records) != n {
		t.Errorf("%d records of %d requests\n%s", len(records), n, s.log)
	}
}

// TestStoreThatCannotBeOpened: the log of the start says what is amiss and what to
// do, and so does the admin API; requests are refused.
func TestStoreThatCannotBeOpened(t *testing.T) {
	inStore := func(name string, content string) func(t *testing.T, store string) {
		return func(t *testing.T, store string) {
			if err := os.WriteFile(filepath.Join(store, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	instead := func(name string, isDir bool) func(t *testing.T, store string) {
		return func(t *testing.T, store string) {
			path := filepath.Join(store, name)
			err := os.RemoveAll(path)
			if isDir {
				err = errors.Join(err, os.Mkdir(path, 0o700))
			} else {
				err = errors.Join(err, os.WriteFile(path, nil, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name   string
		spoil  func(t *testing.T, store string)
		want   []string // STORE is its directory
		status int
	}{
		{"file in its place", instead("", false), []string{"STORE is a file"}, 500},
		{"directory for the database", instead("ledger.db", true), []string{"move the directory STORE/ledger.db away"}, 500},
		{"file for the documents", instead("documents", false), []string{"STORE/documents is a file"}, 500},
		{"no database", inStore("ledger.db", strings.Repeat("no database ", 1000)), []string{"STORE/ledger.db is not a SQLite database"}, 500},
		{"newer database", func(t *testing.T, store string) { lockLedger(t, store, "PRAGMA user_version = 1000")() },
			[]string{"STORE", "schema version 1000"}, 500},
		{"locked against reading", func(t *testing.T, store string) {
			lockLedger(t, store, "PRAGMA journal_mode = DELETE")()
			lockLedger(t, store, "BEGIN EXCLUSIVE")
		}, []string{"another program has locked STORE/ledger.db"}, 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store := filepath.Join(t.TempDir(), "store")
			ledger, err := sqliteledger.Open(t.Context(), store, sqliteledger.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := ledger.Close(); err != nil {
				t.Fatal(err)
			}
			test.spoil(t, store)
			s := startSiteOver(t, "1s", "embedded "+store)
			if status, _, body := s.ask(t, http.MethodGet, "/v1/usage", ""); status != test.status || strings.Contains(body, store) {
				t.Errorf("a request: %d, want %d: %s", status, test.status, body)
			}
			_, notes, err := (&operator{site: s}).try(t, "users", "list")
			if err == nil {
				t.Error("the users can be listed")
			}
			s.stop(t, syscall.SIGTERM)
			for _, part := range test.want {
				part = strings.ReplaceAll(part, "STORE", store)
				for where, text := range map[string]string{"log": s.log.String(), "command": notes} {
					if !strings.Contains(text, part) {
						t.Errorf("the %s does not say %q:\n%s", where, part, text)
					}
				}
			}
		})
	}
}
