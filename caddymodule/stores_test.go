package caddymodule_test

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// stores are what a gateway of November 2026 left when it was killed, in testdata/stores:
// the store, what its admin API said of it, and a key that an operator had made for bob.
// After that, alice had one more answer, which only the journal or the spool has.
var stores = map[string]struct {
	open func(t *testing.T, dir string) (words string)
	bob  string
}{
	"embedded": {func(t *testing.T, dir string) string {
		unzip(t, "embedded.zip", dir)
		return "store embedded " + dir
	}, "sk-igHs0SUQZZr8v561MxtEAhjHD0E1QQWfGQa2t48JeRn"},
	"redis": {func(t *testing.T, dir string) string {
		unzip(t, "redis-spool.zip", dir)
		return fmt.Sprintf("store redis redis://%s/0 {\nspool %s\n}", redisOf(t, "redis.json"), dir)
	}, "sk-8Eb6SjKTTXNj7BRevG7ycbkVQrTHSlOPJeItXLNdnKb"},
}

// TestStoresOfAnEarlierProgram: all is there, and is not counted twice.
func TestStoresOfAnEarlierProgram(t *testing.T) {
	for kind, store := range stores {
		t.Run(kind, func(t *testing.T) {
			sim, err := simulator.Start(simulator.Config{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { sim.Close() })
			words := store.open(t, filepath.Join(t.TempDir(), "store"))
			g := gatewaytest.Start(t, "the gateway", strings.NewReplacer("STORE", words, "SIM", sim.URL).Replace(earlierCaddyfile))
			want := map[string]any{}
			text, err := os.ReadFile(filepath.Join("testdata", "stores", kind+".expected.json"))
			if err == nil {
				err = json.Unmarshal(text, &want)
			}
			if err != nil {
				t.Fatal(err)
			}
			var records []any
			gatewaytest.Within(t, 10*time.Second, "all records are there", func() bool {
				records, _ = adminAnswer(g, "records?limit=0").([]any)
				return len(records) == len(want["records?limit=0"].([]any))+1
			})
			last, _ := records[0].(map[string]any)
			if last["user"] != "alice" || last["charged_usd"] != "0.000405000" {
				t.Errorf("the last record is %v", last)
			}
			if diff := cmp.Diff(want["records?limit=0"], any(records[1:])); diff != "" {
				t.Errorf("records (-before +now):\n%s", diff)
			}
			want["users"].([]any)[0].(map[string]any)["balance_usd"] = "99.997975000" // after the last answer
			for _, path := range []string{"users", "keys", "accounts"} {
				if diff := cmp.Diff(lasting(want[path]), lasting(adminAnswer(g, path))); diff != "" {
					t.Errorf("%s (-before +now):\n%s", path, diff)
				}
			}
			for _, key := range []string{"sk-gateway-tokens", store.bob} {
				status := 0
				gatewaytest.Within(t, 5*time.Second, "a key of before is served", func() bool {
					status = answerTo(g, key)
					return status == http.StatusOK
				})
			}
			if sent := sim.Requests()[0].Header.Get("Authorization"); sent != "Bearer sk-upstream-refreshed" {
				t.Errorf("the token that was refreshed before is not used, but %q", sent)
			}
		})
	}
}

// earlierCaddyfile is what the stores were made by.
const earlierCaddyfile = `{
	admin ADMIN
	persist_config off
	auto_https off
}
SITE {
	sub2api {
		STORE
		encryption_key MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=
		account acct-main {
			api_key sk-upstream-main
			base_url SIM
		}
		account acct-paused {
			api_key sk-upstream-paused
			base_url SIM
		}
		account acct-oauth {
			oauth {
				access_token sk-upstream-old
				refresh_token sk-upstream-refresh
				expires_at 2026-01-01
				token_url SIM/token
				client_id someone
			}
			base_url SIM
		}
		group default {
			accounts acct-main acct-paused
		}
		group tokens {
			accounts acct-oauth
		}
		group plan {
			accounts acct-main
			limits {
				monthly 100
			}
		}
		user alice {
			balance 100
			key sk-gateway-alice default
			key sk-gateway-tokens tokens
		}
		request {
			identity on
		}
		billing {
			retention 0
		}
	}
}
`

// adminAnswer is what the admin API says, as JSON; nil where it says nothing.
func adminAnswer(g *gatewaytest.Gateway, path string) (answer any) {
	response, err := http.Get(g.Admin + "/sub2api/" + path)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	_ = json.NewDecoder(response.Body).Decode(&answer)
	return answer
}

// answerTo is the status of a request with a key.
func answerTo(g *gatewaytest.Gateway, key string) int {
	request, _ := http.NewRequest(http.MethodPost, g.URL+"/v1/messages", strings.NewReader(question)) // it is well formed
	request.Header.Set("X-Api-Key", key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// lasting is an answer without what passes with time.
func lasting(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = lasting(v[i])
		}
	case map[string]any:
		for _, name := range []string{"windows", "in_use", "waiting", "held_usd", "last_used"} {
			delete(v, name)
		}
		for name := range v {
			v[name] = lasting(v[name])
		}
	}
	return v
}

func unzip(t *testing.T, name, dir string) {
	t.Helper()
	archive, err := zip.OpenReader(filepath.Join("testdata", "stores", name))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if err := os.CopyFS(dir, archive); err != nil {
		t.Fatal(err)
	}
}

// redisOf starts a server with the keys of a file, and returns its address.
func redisOf(t *testing.T, name string) string {
	t.Helper()
	var keys []struct {
		Key, Type string
		Values    [][]byte
	}
	text, err := os.ReadFile(filepath.Join("testdata", "stores", name))
	if err == nil {
		err = json.Unmarshal(text, &keys)
	}
	if err != nil {
		t.Fatal(err)
	}
	server := miniredis.RunT(t)
	for _, k := range keys {
		for i := 0; i < len(k.Values); i++ {
			value := string(k.Values[i])
			switch k.Type {
			case "string":
				err = server.Set(k.Key, value)
			case "list":
				_, err = server.Push(k.Key, value)
			case "set":
				_, err = server.SAdd(k.Key, value)
			case "hash":
				i++
				server.HSet(k.Key, value, string(k.Values[i]))
			case "zset":
				i++
				var score float64
				if score, err = strconv.ParseFloat(string(k.Values[i]), 64); err == nil {
					_, err = server.ZAdd(k.Key, score, value)
				}
			default:
				t.Fatalf("%s is a %s", k.Key, k.Type)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return server.Addr()
}
