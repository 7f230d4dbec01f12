package caddymodule

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

func mustOpen(t *testing.T, dir string, key []byte) *documents {
	t.Helper()
	d, err := openDocuments(dir, key)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustSave(t *testing.T, d *documents, k kind, name, content string) {
	t.Helper()
	if err := d.save(k, name, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func wantDocument(t *testing.T, d *documents, k kind, name, want string) {
	t.Helper()
	got, err := d.load(k, name)
	if err != nil || string(got) != want {
		t.Errorf("document %s: %q, %v; want %q", name, got, err, want)
	}
}

// files returns what is on disk below a store.
func files(t *testing.T, dir string) (all []byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		content, err := os.ReadFile(path)
		all = append(append(append(all, path...), '\n'), content...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func keyOf(b byte) []byte { return bytes.Repeat([]byte{b}, encryptionBytes) }

func TestDocumentsAreKept(t *testing.T) {
	for name, key := range map[string][]byte{"in clear": nil, "sealed": keyOf(1)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := mustOpen(t, dir, key)
			wantDocument(t, d, tokenDocuments, "main", "")
			names := []string{"main", "Main", "a.b", "..", ".tmp-x", "a/b", "a%2fb", "bob@example.com", "Ω", strings.Repeat("A", 64)}
			for _, name := range names {
				mustSave(t, d, tokenDocuments, name, "old")
				mustSave(t, d, tokenDocuments, name, `{"of":"`+name+`","token":"SECRET"}`)
			}
			mustSave(t, d, standingDocuments, "main", "another")
			left := filepath.Join(d.dir, "tokens", ".tmp-123")
			if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
			d = mustOpen(t, dir, key)
			for _, name := range names {
				wantDocument(t, d, tokenDocuments, name, `{"of":"`+name+`","token":"SECRET"}`)
			}
			if got, err := d.names(tokenDocuments); err != nil || len(got) != len(names) {
				t.Errorf("names %q, %v", got, err)
			}
			if _, err := os.Stat(left); !os.IsNotExist(err) {
				t.Errorf("what a killed process left is there still: %v", err)
			}
			if shown := bytes.Contains(files(t, dir), []byte("SECRET")); shown != (key == nil) {
				t.Errorf("the disk shows secrets: %t", shown)
			}
		})
	}
}

func TestSealedDocumentsNeedTheirKey(t *testing.T) {
	dir := t.TempDir()
	mustSave(t, mustOpen(t, dir, keyOf(1)), tokenDocuments, "main", "SECRET")
	for name, test := range map[string]struct {
		key  []byte
		want string
	}{
		"another key": {keyOf(2), "encryption_key is not the one that the secrets in this store were sealed with"},
		"no key":      {nil, "secrets in this store are sealed, and there is no encryption_key"},
	} {
		_, err := openDocuments(dir, test.key)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	wantDocument(t, mustOpen(t, dir, keyOf(1)), tokenDocuments, "main", "SECRET")
}

func TestAKeySealsWhatWasThereBefore(t *testing.T) {
	dir := t.TempDir()
	mustSave(t, mustOpen(t, dir, nil), tokenDocuments, "main", "SECRET")
	d := mustOpen(t, dir, keyOf(1))
	if bytes.Contains(files(t, dir), []byte("SECRET")) {
		t.Error("a secret from before the key is in clear")
	}
	wantDocument(t, d, tokenDocuments, "main", "SECRET")
}

func TestSealedDocumentsCantBeAlteredOrSwapped(t *testing.T) {
	d := mustOpen(t, t.TempDir(), keyOf(1))
	mustSave(t, d, tokenDocuments, "a", "of a")
	content, err := os.ReadFile(d.path(tokenDocuments, "a"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, content []byte) {
		if err := os.WriteFile(d.path(tokenDocuments, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("b", content)
	content[len(content)-1] ^= 1
	put("a", content)
	put("c", []byte(sealedPrefix))
	for _, name := range []string{"a", "b", "c"} {
		if got, err := d.load(tokenDocuments, name); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestEncryptionKeyForms(t *testing.T) {
	raw := []byte("0123456789abcdef\x00\xfb\xff3456789abcdef")[:32]
	for _, text := range []string{
		hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)),
		base64.StdEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw),
		base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
	} {
		if key, err := parseEncryptionKey(text); err != nil || !bytes.Equal(key, raw) {
			t.Errorf("%s: %x, %v", text, key, err)
		}
	}
	for _, text := range []string{"", "DO-NOT-SHOW", hex.EncodeToString(raw[1:]), base64.StdEncoding.EncodeToString(append(raw, 1)), strings.Repeat("g", 64)} {
		if key, err := parseEncryptionKey(text); err == nil || strings.Contains(err.Error(), "DO-NOT-SHOW") {
			t.Errorf("%q: %x, %v", text, key, err)
		}
	}
}

func TestStandingsAreDocuments(t *testing.T) {
	d := mustOpen(t, t.TempDir(), keyOf(1))
	k := standingKeeper{d, slog.New(slog.DiscardHandler)}
	want := map[string]scheduler.Standing{"account/main": {Error: "because", Credential: "f"}, "account/Main": {Paused: true}}
	for place, standing := range want {
		k.Save(place, standing)
	}
	mustSave(t, d, standingDocuments, "account/broken", "{")
	got, err := k.Load()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestKeysOfAnOpenStore(t *testing.T) {
	s, dir := &store{}, t.TempDir()
	s.documents = mustOpen(t, dir, nil)
	mustSave(t, s.documents, tokenDocuments, "main", "SECRET")
	for _, step := range []struct {
		key []byte
		ok  bool
	}{{nil, true}, {keyOf(1), true}, {keyOf(1), true}, {keyOf(2), false}, {nil, false}} {
		if err := s.rekey(dir, step.key); (err == nil) != step.ok {
			t.Errorf("key %x: error %v", step.key, err)
		}
		wantDocument(t, s.documents, tokenDocuments, "main", "SECRET")
	}
}
