package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sub2api/caddy-sub2api/internal/private"
)

// fileDocuments keeps documents in a directory of the store, whose lock its user
// holds: a file for each, mode 0600, that survives power failures.
type fileDocuments struct {
	dir    string
	sealer EncryptionKey
	// changing is held by change.
	changing sync.Mutex
}

// temporaryPrefix begins the names of files that are being written; names of
// documents never begin so.
const temporaryPrefix = ".tmp-"

// openFiles opens the documents of a store. Where a key was given, what lies
// there in clear is sealed.
func openFiles(ctx context.Context, store string, key EncryptionKey) (*fileDocuments, error) {
	d := &fileDocuments{dir: filepath.Join(store, "documents"), sealer: key}
	err := d.prepare()
	if err == nil {
		err = prepareKey(ctx, d)
	}
	if err != nil {
		return nil, fmt.Errorf("documents in %s: %w", d.dir, private.Explain(err))
	}
	return d, nil
}

func (d *fileDocuments) prepare() error {
	for _, k := range []Kind{checkDocuments, TokenDocuments, accountStateDocuments, IdentityDocuments} {
		dir := filepath.Join(d.dir, k.name)
		if err := private.MkdirAll(dir); err != nil {
			return err
		}
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, file := range files { // some may be of a process that was killed
			if !strings.HasPrefix(file.Name(), temporaryPrefix) {
				private.Tighten(filepath.Join(dir, file.Name())) // one that was put back from a backup
				continue
			}
			if err := os.Remove(filepath.Join(dir, file.Name())); err != nil {
				return err
			}
		}
	}
	return errors.Join(private.SyncDirectory(filepath.Dir(d.dir)), private.SyncDirectory(d.dir))
}

func (d *fileDocuments) Ready(context.Context) error { return nil } // openFiles did it

func (d *fileDocuments) sealedWith() EncryptionKey { return d.sealer }

func (d *fileDocuments) Load(_ context.Context, k Kind, name string) ([]byte, error) {
	stored, err := d.read(k, name)
	if err != nil || stored == nil {
		return nil, err
	}
	return d.sealer.open(k, name, stored, d.Where(k, name))
}

// read returns what is on disk; nil, nil if there is nothing.
func (d *fileDocuments) read(k Kind, name string) ([]byte, error) {
	stored, err := os.ReadFile(d.Where(k, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return stored, err
}

func (d *fileDocuments) Save(_ context.Context, k Kind, name string, content []byte) error {
	stored, err := d.sealer.seal(k, name, content)
	if err != nil {
		return err
	}
	return replaceFile(d.Where(k, name), stored)
}

func (d *fileDocuments) Change(ctx context.Context, k Kind, name string, f func([]byte) []byte) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	stored, err := d.read(k, name)
	if err != nil {
		return err
	}
	old, err := openStored(d.sealer, k, name, stored, d.Where(k, name))
	if err != nil {
		return err
	}
	next := f(old)
	if upToDate(d.sealer, k, stored, old, next) {
		return nil
	}
	return d.Save(ctx, k, name, next)
}

func (d *fileDocuments) names(_ context.Context, k Kind) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(d.dir, k.name))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		escaped, ok := strings.CutSuffix(entry.Name(), documentSuffix)
		if name, err := url.PathUnescape(escaped); ok && err == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

const documentSuffix = ".json"

func (d *fileDocuments) Where(k Kind, name string) string {
	return filepath.Join(d.dir, k.name, escapeName(name)+documentSuffix)
}

// escapeName makes a file name that is safe anywhere, and differs in more than
// case from that of any other name.
func escapeName(name string) string {
	var out strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			out.WriteByte(c)
		default:
			fmt.Fprintf(&out, "%%%02x", c)
		}
	}
	return out.String()
}

// replaceFile writes a file whole, mode 0600, and syncs it and its directory.
func replaceFile(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, temporaryPrefix+"*")
	if err != nil {
		return err
	}
	private.Tighten(file.Name()) // a umask may have taken more than it should
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err = os.Rename(file.Name(), path); err != nil {
		return err
	}
	return private.SyncDirectory(dir)
}
