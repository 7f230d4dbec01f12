package caddymodule

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
)

// documents keeps small documents, a file for each, in a directory of the store,
// whose lock its user holds. A document is written whole: it survives kill -9
// and power failures in its old form or the new one.
//
// With a key, kinds that hold secrets are sealed with AES-256-GCM, each under its
// own name, so that one can't take another's place.
type documents struct {
	dir string
	key []byte // nil = nothing is sealed
}

// kind is a directory of documents.
type kind struct {
	name   string
	secret bool
}

var (
	tokenDocuments    = kind{"tokens", true}
	standingDocuments = kind{"standings", false}
	identityDocuments = kind{"identities", false}
	// checkDocuments holds one document that tells whether the key is right.
	checkDocuments = kind{"key", true}
)

const (
	checkName = "check"
	// sealedPrefix begins sealed documents. Others are JSON.
	sealedPrefix = "sub2api sealed 1\n"
	// temporaryPrefix begins the names of files that are being written; names of
	// documents never begin so.
	temporaryPrefix = ".tmp-"
	encryptionBytes = 32
)

var errNoKey = errors.New("secrets in this store are sealed, and there is no encryption_key; write the one that they were sealed with")

var errWrongKey = errors.New("encryption_key is not the one that the secrets in this store were sealed with")

// openDocuments opens the documents of a store. Where a key was given, what lies
// there in clear is sealed.
func openDocuments(store string, key []byte) (*documents, error) {
	d := &documents{dir: filepath.Join(store, "documents"), key: key}
	if err := d.prepare(); err != nil {
		return nil, fmt.Errorf("documents in %s: %w", d.dir, err)
	}
	return d, nil
}

// checkKey tells whether the key is that of a store, without opening it: another
// process may have it. A store that can't be read is none of its business.
func checkKey(store string, key []byte) error {
	d := &documents{dir: filepath.Join(store, "documents"), key: key}
	_, err := d.load(checkDocuments, checkName)
	if errors.Is(err, errWrongKey) || errors.Is(err, errNoKey) {
		return fmt.Errorf("store %s: %w", store, err)
	}
	return nil
}

func (d *documents) prepare() error {
	for _, k := range []kind{checkDocuments, tokenDocuments, standingDocuments, identityDocuments} {
		dir := filepath.Join(d.dir, k.name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, file := range files { // some may be of a process that was killed
			if !strings.HasPrefix(file.Name(), temporaryPrefix) {
				continue
			}
			if err := os.Remove(filepath.Join(dir, file.Name())); err != nil {
				return err
			}
		}
	}
	if err := errors.Join(syncDir(filepath.Dir(d.dir)), syncDir(d.dir)); err != nil {
		return err
	}
	check, err := d.load(checkDocuments, checkName)
	if err != nil || d.key == nil {
		return err
	}
	if check == nil {
		if err := d.save(checkDocuments, checkName, []byte("{}")); err != nil {
			return err
		}
	}
	return d.sealAll()
}

// sealAll seals the secrets that were written before there was a key.
func (d *documents) sealAll() error {
	names, err := d.names(tokenDocuments)
	if err != nil {
		return err
	}
	for _, name := range names {
		content, err := os.ReadFile(d.path(tokenDocuments, name))
		if err == nil && !bytes.HasPrefix(content, []byte(sealedPrefix)) {
			err = d.save(tokenDocuments, name, content)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// load returns a document; nil, nil if there is none.
func (d *documents) load(k kind, name string) ([]byte, error) {
	content, err := os.ReadFile(d.path(k, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sealed, ok := bytes.CutPrefix(content, []byte(sealedPrefix))
	if !ok {
		return content, nil
	}
	if d.key == nil {
		return nil, errNoKey
	}
	return d.open(k, name, sealed)
}

// save writes a document; it is on disk when it returns nil.
func (d *documents) save(k kind, name string, content []byte) error {
	if k.secret && d.key != nil {
		var err error
		if content, err = d.seal(k, name, content); err != nil {
			return err
		}
	}
	return replaceFile(d.path(k, name), content)
}

// names lists the documents of a kind.
func (d *documents) names(k kind) ([]string, error) {
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

func (d *documents) path(k kind, name string) string {
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

func (d *documents) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(d.key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (d *documents) seal(k kind, name string, content []byte) ([]byte, error) {
	aead, err := d.aead()
	if err != nil {
		return nil, err
	}
	return aead.Seal([]byte(sealedPrefix), nil, content, []byte(k.name+"/"+name)), nil
}

func (d *documents) open(k kind, name string, sealed []byte) ([]byte, error) {
	aead, err := d.aead()
	if err != nil {
		return nil, err
	}
	content, err := aead.Open(nil, nil, sealed, []byte(k.name+"/"+name))
	if err != nil && k == checkDocuments {
		return nil, errWrongKey
	}
	if err != nil {
		return nil, fmt.Errorf("the sealed document %s is damaged, or %w", d.path(k, name), errWrongKey)
	}
	return content, nil
}

// replaceFile writes a file whole, mode 0600, and syncs it and its directory.
func replaceFile(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, temporaryPrefix+"*") // mode 0600
	if err != nil {
		return err
	}
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
	return syncDir(dir)
}

// syncDir makes the names in a directory survive a power failure. Windows does
// so by itself.
func syncDir(dir string) error {
	if goruntime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// parseEncryptionKey reads a resolved encryption_key. The errors do not show it.
func parseEncryptionKey(text string) ([]byte, error) {
	if len(text) == hex.EncodedLen(encryptionBytes) {
		if key, err := hex.DecodeString(text); err == nil {
			return key, nil
		}
	}
	unpadded := strings.TrimRight(text, "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if key, err := encoding.Strict().DecodeString(unpadded); err == nil && len(key) == encryptionBytes {
			return key, nil
		}
	}
	return nil, errors.New("is not 32 bytes in base64 or hexadecimal; make one with: openssl rand -base64 32")
}
