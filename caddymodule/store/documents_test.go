package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

// place is where the documents of a test are kept.
type place interface {
	// Open opens them the way that a starting process does.
	Open(key EncryptionKey) (Documents, error)
	// stored is all that is there.
	stored(t *testing.T) []byte
	// put writes what is stored of a document, and got reads it.
	put(t *testing.T, k Kind, name, stored string)
	got(t *testing.T, k Kind, name string) string
}

// everywhere runs a test with every sort of documents.
func everywhere(t *testing.T, test func(t *testing.T, p place)) {
	t.Run("files", func(t *testing.T) { test(t, filePlace(t.TempDir())) })
	t.Run("redis", func(t *testing.T) { test(t, newRedisPlace(t, "redis://"+miniredis.RunT(t).Addr())) })
	t.Run("redis-server", func(t *testing.T) {
		url := os.Getenv("SUB2API_TEST_REDIS")
		if url == "" {
			t.Skip("SUB2API_TEST_REDIS names no server")
		}
		test(t, newRedisPlace(t, url))
	})
}

type filePlace string

func (p filePlace) Open(key EncryptionKey) (Documents, error) {
	d, err := openFiles(context.Background(), string(p), key)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (p filePlace) path(k Kind, name string) string {
	return (&fileDocuments{dir: filepath.Join(string(p), "documents")}).Where(k, name)
}

func (p filePlace) put(t *testing.T, k Kind, name, stored string) {
	t.Helper()
	if err := os.WriteFile(p.path(k, name), []byte(stored), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p filePlace) got(t *testing.T, k Kind, name string) string {
	t.Helper()
	stored, err := os.ReadFile(p.path(k, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(stored)
}

func (p filePlace) stored(t *testing.T) (all []byte) {
	t.Helper()
	err := filepath.WalkDir(string(p), func(path string, entry os.DirEntry, err error) error {
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

type redisPlace struct {
	client    redis.UniversalClient
	link      *redislink.Link
	namespace string
}

func newRedisPlace(t *testing.T, url string) redisPlace {
	t.Helper()
	return newRedisPlaceIn(t, url, "test:"+rand.Text())
}

func newRedisPlaceIn(t *testing.T, url, namespace string) redisPlace {
	t.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	options.Protocol, options.MaxRetries = redisProtocol, -1
	client := redis.NewClient(options)
	t.Cleanup(func() { client.Close() })
	link := redislink.New(client, redislink.Options{Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(link.Close)
	return redisPlace{client, link, namespace}
}

func (p redisPlace) Open(key EncryptionKey) (Documents, error) {
	d, err := openRedisDocuments(context.Background(), p.link, p.namespace, key)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (p redisPlace) hash(k Kind) string { return "{" + p.namespace + "}:documents:" + k.name }

func (p redisPlace) put(t *testing.T, k Kind, name, stored string) {
	t.Helper()
	if err := p.client.HSet(t.Context(), p.hash(k), name, stored).Err(); err != nil {
		t.Fatal(err)
	}
}

func (p redisPlace) got(t *testing.T, k Kind, name string) string {
	t.Helper()
	stored, err := p.client.HGet(t.Context(), p.hash(k), name).Result()
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func (p redisPlace) stored(t *testing.T) []byte {
	t.Helper()
	var all strings.Builder
	for _, k := range []Kind{TokenDocuments, IdentityDocuments, checkDocuments} {
		fields, err := p.client.HGetAll(t.Context(), p.hash(k)).Result()
		if err != nil {
			t.Fatal(err)
		}
		for name, stored := range fields {
			all.WriteString(name + "\n" + stored)
		}
	}
	return []byte(all.String())
}

func mustOpen(t *testing.T, p place, key EncryptionKey) Documents {
	t.Helper()
	d, err := p.Open(key)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustSave(t *testing.T, d Documents, k Kind, name, content string) {
	t.Helper()
	if err := d.Save(t.Context(), k, name, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func wantDocument(t *testing.T, d Documents, k Kind, name, want string) {
	t.Helper()
	got, err := d.Load(t.Context(), k, name)
	if err != nil || string(got) != want {
		t.Errorf("document %s: %q, %v; want %q", name, got, err, want)
	}
}

func keyOf(b byte) EncryptionKey { return bytes.Repeat([]byte{b}, encryptionBytes) }

func TestDocumentsAreKept(t *testing.T) {
	for sort, key := range map[string]EncryptionKey{"in clear": nil, "sealed": keyOf(1)} {
		everywhere(t, func(t *testing.T, p place) {
			d := mustOpen(t, p, key)
			wantDocument(t, d, TokenDocuments, "main", "")
			names := []string{"main", "Main", "a.b", "..", ".tmp-x", "a/b", "a%2fb", "bob@example.com", "Ω", strings.Repeat("A", 64)}
			for _, name := range names {
				mustSave(t, d, TokenDocuments, name, "old")
				mustSave(t, d, TokenDocuments, name, `{"of":"`+name+`","token":"SECRET"}`)
			}
			mustSave(t, d, IdentityDocuments, "main", "another")
			d = mustOpen(t, p, key)
			for _, name := range names {
				wantDocument(t, d, TokenDocuments, name, `{"of":"`+name+`","token":"SECRET"}`)
			}
			wantDocument(t, d, IdentityDocuments, "main", "another")
			got, err := d.names(t.Context(), TokenDocuments)
			slices.Sort(got)
			slices.Sort(names)
			if err != nil || !slices.Equal(got, names) {
				t.Errorf("%s: names %q, %v", sort, got, err)
			}
			if shown := bytes.Contains(p.stored(t), []byte("SECRET")); shown != (key == nil) {
				t.Errorf("%s: the store shows secrets: %t", sort, shown)
			}
		})
	}
}

func TestFilesOfAKilledProcessAreRemoved(t *testing.T) {
	p := filePlace(t.TempDir())
	mustOpen(t, p, nil)
	left := filepath.Join(string(p), "documents", "tokens", ".tmp-123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, p, nil)
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what a killed process left is there still: %v", err)
	}
}

func TestDocumentsChangeInOneStep(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		const workers, rounds = 4, 10
		var running sync.WaitGroup
		d := mustOpen(t, p, nil)
		for worker := range workers {
			mine := d
			if _, shared := p.(redisPlace); shared {
				mine = mustOpen(t, p, nil) // of another process
			}
			running.Go(func() {
				for round := range rounds {
					word := fmt.Sprintf("%d.%d ", worker, round)
					if err := mine.Change(t.Context(), IdentityDocuments, "x", func(old []byte) []byte { return append(slices.Clone(old), word...) }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		running.Wait()
		got, err := d.Load(t.Context(), IdentityDocuments, "x")
		if words := strings.Fields(string(got)); err != nil || len(words) != workers*rounds {
			t.Errorf("%d words are there, want %d: %v", len(words), workers*rounds, err)
		}
	})
}

func TestChangeThatChangesNothingWritesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		d := mustOpen(t, p, keyOf(1))
		keep := func(old []byte) []byte { return old }
		if err := d.Change(t.Context(), TokenDocuments, "x", keep); err != nil {
			t.Fatal(err)
		}
		if names, err := d.names(t.Context(), TokenDocuments); len(names) != 0 || err != nil {
			t.Errorf("a document was made of nothing: %q, %v", names, err)
		}
		mustSave(t, d, TokenDocuments, "x", "SECRET")
		before := p.got(t, TokenDocuments, "x")
		if err := d.Change(t.Context(), TokenDocuments, "x", keep); err != nil || p.got(t, TokenDocuments, "x") != before {
			t.Errorf("it was written again: %v", err)
		}
	})
}

func TestSealedDocumentsNeedTheirKey(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		mustSave(t, mustOpen(t, p, keyOf(1)), TokenDocuments, "main", "SECRET")
		for name, test := range map[string]struct {
			key  EncryptionKey
			want string
		}{
			"another key": {keyOf(2), "encryption_key is not the one that the secrets in this store were sealed with"},
			"no key":      {nil, "secrets in this store are sealed, and there is no encryption_key"},
		} {
			_, err := p.Open(test.key)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: error %v", name, err)
			}
		}
		wantDocument(t, mustOpen(t, p, keyOf(1)), TokenDocuments, "main", "SECRET")
	})
}

func TestAKeySealsWhatWasThereBefore(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		mustSave(t, mustOpen(t, p, nil), TokenDocuments, "main", "SECRET")
		d := mustOpen(t, p, keyOf(1))
		if bytes.Contains(p.stored(t), []byte("SECRET")) {
			t.Error("a secret from before the key is in clear")
		}
		wantDocument(t, d, TokenDocuments, "main", "SECRET")
	})
}

func TestSealedDocumentsCantBeAlteredOrSwapped(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		d := mustOpen(t, p, keyOf(1))
		mustSave(t, d, TokenDocuments, "a", "of a")
		content := []byte(p.got(t, TokenDocuments, "a"))
		p.put(t, TokenDocuments, "b", string(content))
		content[len(content)-1] ^= 1
		p.put(t, TokenDocuments, "a", string(content))
		p.put(t, TokenDocuments, "c", sealedPrefix)
		for _, name := range []string{"a", "b", "c"} {
			if got, err := d.Load(t.Context(), TokenDocuments, name); err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	})
}

// The key is looked at when Redis is there, and nothing is sealed before.
func TestKeyIsCheckedWhenRedisIsBack(t *testing.T) {
	server := miniredis.RunT(t)
	p := newRedisPlace(t, "redis://"+server.Addr())
	mustSave(t, mustOpen(t, p, keyOf(1)), TokenDocuments, "main", "SECRET")
	server.SetError("LOADING")
	right, wrong := mustOpen(t, p, keyOf(1)), mustOpen(t, p, keyOf(2))
	if err := right.Ready(t.Context()); err == nil {
		t.Error("a key counts as right that nobody could look at")
	}
	server.SetError("")
	if err := right.Ready(t.Context()); err != nil {
		t.Errorf("the right key: %v", err)
	}
	for what, err := range map[string]error{
		"ready": wrong.Ready(t.Context()),
		"save":  wrong.Save(t.Context(), TokenDocuments, "main", []byte("other")),
	} {
		if !errors.Is(err, ErrWrongKey) {
			t.Errorf("%s with the wrong key: %v", what, err)
		}
	}
	wantDocument(t, right, TokenDocuments, "main", "SECRET")
}

func TestFirstKeyOfAStoreIsOne(t *testing.T) {
	p := newRedisPlace(t, "redis://"+miniredis.RunT(t).Addr())
	var running sync.WaitGroup
	opened := make([]error, 8)
	for i := range opened {
		running.Go(func() { _, opened[i] = p.Open(keyOf(byte(i))) })
	}
	running.Wait()
	right := 0
	for _, err := range opened {
		if err == nil {
			right++
		} else if !errors.Is(err, ErrWrongKey) {
			t.Error(err)
		}
	}
	if right != 1 {
		t.Errorf("%d keys count as right", right)
	}
}

func TestEncryptionKeyForms(t *testing.T) {
	raw := []byte("0123456789abcdef\x00\xfb\xff3456789abcdef")[:32]
	for _, text := range []string{
		hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)),
		base64.StdEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw),
		base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
	} {
		if key, err := ParseEncryptionKey(text); err != nil || !bytes.Equal(key, raw) {
			t.Errorf("%s: %x, %v", text, key, err)
		}
	}
	for _, text := range []string{"", "DO-NOT-SHOW", hex.EncodeToString(raw[1:]), base64.StdEncoding.EncodeToString(append(raw, 1)), strings.Repeat("g", 64)} {
		if key, err := ParseEncryptionKey(text); err == nil || strings.Contains(err.Error(), "DO-NOT-SHOW") {
			t.Errorf("%q: %x, %v", text, key, err)
		}
	}
}

func TestAccountStatesAreDocuments(t *testing.T) {
	d := mustOpen(t, filePlace(t.TempDir()), keyOf(1)).(*fileDocuments)
	k := accountStateKeeper{d, slog.New(slog.DiscardHandler)}
	want := map[string]scheduler.AccountState{"account/main": {Error: "because", Credential: "f"}, "account/Main": {Pause: &scheduler.Pause{By: "somebody"}}}
	for place, accountState := range want {
		k.Save(place, accountState)
	}
	mustSave(t, d, accountStateDocuments, "account/broken", "{")
	got, err := k.Load()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestKeysOfAnOpenStore(t *testing.T) {
	p := filePlace(t.TempDir())
	s := &Store{backend: &embeddedBackend{dir: string(p)}, docs: mustOpen(t, p, nil)}
	mustSave(t, s.docs, TokenDocuments, "main", "SECRET")
	for _, step := range []struct {
		key EncryptionKey
		ok  bool
	}{{nil, true}, {keyOf(1), true}, {keyOf(1), true}, {keyOf(2), false}, {nil, false}} {
		if err := s.rekey(t.Context(), step.key); (err == nil) != step.ok {
			t.Errorf("key %x: error %v", step.key, err)
		}
		wantDocument(t, s.docs, TokenDocuments, "main", "SECRET")
	}
}

func TestWrongKeyIsAnErrorWhereRedisCanBeReached(t *testing.T) {
	server := miniredis.RunT(t)
	named := &Redis{Network: "tcp", Addresses: []string{server.Addr()}, Namespace: "sub2api", Timeout: 100 * time.Millisecond}
	b := named.Backend(nil)
	defer b.Close()
	d, err := b.Documents(t.Context(), keyOf(1))
	if err != nil {
		t.Fatal(err)
	}
	mustSave(t, d, TokenDocuments, "main", "SECRET")
	for _, step := range []struct {
		key EncryptionKey
		ok  bool
	}{{keyOf(1), true}, {keyOf(2), false}, {nil, false}} {
		if err := named.CheckKey(t.Context(), step.key); (err == nil) != step.ok {
			t.Errorf("key %x: error %v", step.key, err)
		}
	}
	server.Close()
	began := time.Now()
	if err := named.CheckKey(t.Context(), keyOf(2)); err != nil || time.Since(began) > time.Second {
		t.Errorf("without Redis: error %v after %s", err, time.Since(began))
	}
}
