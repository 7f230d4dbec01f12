package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/sqliteledger"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
)

// Embedded is a directory of this machine: state in memory, ledger and
// documents on disk.
type Embedded struct {
	Dir string // absolute
	Keeping
}

// String implements fmt.Stringer.
func (s Embedded) String() string { return "embedded " + s.Dir }

// Key: two spellings of one directory are one store.
func (s Embedded) Key() string { return "embedded:" + realPath(s.Dir) }

func (s Embedded) CheckKey(ctx context.Context, key EncryptionKey) error {
	d := &fileDocuments{dir: filepath.Join(s.Dir, "documents"), sealer: key}
	if _, err := d.Load(ctx, checkDocuments, checkName); isKeyError(err) {
		return err
	}
	return nil
}

// Keeping is how the sites of a store have it keep money, all of them alike.
type Keeping struct {
	Sync bool           // sync the disk for every record
	Zone *time.Location // where windows begin
}

// clash is the error of a word that is built into a store as it is open now.
func clash(word string) error {
	return fmt.Errorf("%s is another than that of the store as it is open now; every site of a store has the same, and Caddy must be restarted to change it", word)
}

func (k Keeping) Clash(open Keeping) error {
	switch {
	case k.Sync != open.Sync:
		return clash("billing: durability")
	case k.Zone.String() != open.Zone.String():
		return clash("billing: timezone")
	}
	return nil
}

func (s Embedded) Clash(open Config) error {
	return s.Keeping.Clash(open.(Embedded).Keeping) // their keys are the same
}

func (s Embedded) Outage() Outage { return OutageFails }

func (s Embedded) Backend(logger *slog.Logger) Backend {
	return &embeddedBackend{
		dir: realPath(s.Dir), options: sqliteledger.Options{Logger: logger, Sync: s.Sync, Location: s.Zone}, memory: memstate.New(), logger: logger,
	}
}

// realPath resolves the symbolic links in an absolute path, as far as it
// exists.
func realPath(path string) string {
	rest := ""
	for at := path; ; at = filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if at == filepath.Dir(at) {
			return path
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}

type embeddedBackend struct {
	dir     string
	options sqliteledger.Options
	memory  *memstate.State
	logger  *slog.Logger
}

func (b *embeddedBackend) State() scheduler.State { return b.memory }

func (b *embeddedBackend) Open(ctx context.Context, key EncryptionKey) (billing.Ledger, Documents, error) {
	ledger, err := sqliteledger.Open(ctx, b.dir, b.options)
	if err != nil {
		return nil, nil, err
	}
	// The directory is this process's now.
	d, err := openFiles(ctx, b.dir, key)
	if err == nil {
		// This comes last: it works once, and what fails here is tried again.
		if err = b.memory.Keep(accountStateKeeper{d, b.logger}); err != nil {
			err = fmt.Errorf("account states: %w", err)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, ledger.Close())
	}
	return ledger, d, nil
}

func (b *embeddedBackend) Documents(ctx context.Context, key EncryptionKey) (Documents, error) {
	d, err := openFiles(ctx, b.dir, key)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (b *embeddedBackend) Take(Config) {} // it can't be changed

func (b *embeddedBackend) Down() error { return nil }

func (b *embeddedBackend) Regained(func(context.Context) error) (forget func()) { return func() {} }

func (b *embeddedBackend) Close() error { return nil }

// accountStateKeeper keeps account states as documents of the store.
type accountStateKeeper struct {
	documents *fileDocuments
	logger    *slog.Logger
}

// Load implements memstate.Keeper. A document that can't be read is an account
// of which nothing is known.
func (k accountStateKeeper) Load() (map[string]scheduler.AccountState, error) {
	ctx := context.Background()
	names, err := k.documents.names(ctx, accountStateDocuments)
	if err != nil {
		return nil, err
	}
	all := make(map[string]scheduler.AccountState, len(names))
	for _, name := range names {
		var accountState scheduler.AccountState
		content, err := k.documents.Load(ctx, accountStateDocuments, name)
		if err == nil {
			err = json.Unmarshal(content, &accountState)
		}
		if err != nil {
			k.logger.Error("an account's state can't be read; it begins again", "file", k.documents.Where(accountStateDocuments, name), "error", err)
			continue
		}
		all[name] = accountState
	}
	return all, nil
}

// Save implements memstate.Keeper.
func (k accountStateKeeper) Save(place string, accountState scheduler.AccountState) {
	content, err := json.Marshal(accountState)
	if err == nil {
		err = k.documents.Save(context.Background(), accountStateDocuments, place, content)
	}
	if err != nil {
		k.logger.Error("an account's state could not be stored; it is lost if the process ends before its next change",
			"file", k.documents.Where(accountStateDocuments, place), "error", err)
	}
}
