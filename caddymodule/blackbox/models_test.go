package blackbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func TestModelsForClients(t *testing.T) {
	g := serve(t, simulator.Config{}, `
	account acct-one {
		api_key sk-upstream-one
		base_url SIM
		models {
			model-d up
			model-a
			claude-*
			model-c
		}
	}
	account acct-two {
		api_key sk-upstream-two
		base_url SIM
		models {
			model-b
			model-c other
			model-d[1m] long
		}
	}
	account acct-off {
		api_key sk-upstream-off
		base_url SIM
		disabled
		models {
			model-off
		}
	}
	account acct-open {
		api_key sk-upstream-open
		base_url SIM
	}
	group default {
		accounts acct-one acct-two acct-off
	}
	group open {
		accounts acct-open
	}
	user alice {
		key sk-gateway-alice default
		key sk-gateway-open open
	}`)
	for query, want := range map[string]string{
		"":                              "model-a model-b model-c model-d, false",
		"?limit=2":                      "model-a model-b, true",
		"?limit=2&after_id=model-b":     "model-c model-d, false",
		"?limit=1&after_id=model-b":     "model-c, true",
		"?limit=1&after_id=model-b[1M]": "model-c, true",
		"?limit=2&before_id=model-d":    "model-b model-c, true",
		"?limit=9&before_id=model-c":    "model-a model-b, false",
		"?after_id=model-d":             ", false",
		"?limit=1000":                   "model-a model-b model-c model-d, false",
	} {
		a := g.get("/v1/models" + query)
		list := gjson.ParseBytes(a.body)
		var ids []string
		for _, id := range list.Get("data.#.id").Array() {
			ids = append(ids, id.Str)
		}
		if got := strings.Join(ids, " ") + ", " + list.Get("has_more").Raw; a.status != 200 || got != want {
			t.Errorf("%s: %d %s, want %s", query, a.status, got, want)
		}
		first, last := "", ""
		if len(ids) > 0 {
			first, last = ids[0], ids[len(ids)-1]
		}
		if list.Get("object").Str != "list" || list.Get("first_id").Str != first || list.Get("last_id").Str != last {
			t.Errorf("%s: %s", query, a.body)
		}
	}
	for _, query := range []string{"?limit=0", "?limit=-1", "?limit=many", "?limit=1001"} {
		refusal{400, "invalid_request_error", true, "limit"}.check(t, g.get("/v1/models"+query))
	}
	for _, id := range []string{"model-off", "claude-sonnet-5-5"} { // a pattern names no model
		refusal{404, "not_found_error", true, id}.check(t, g.get("/v1/models/"+id))
	}
	one := g.get("/v1/models/model-d")
	want := `{"type":"model","id":"model-d","display_name":"model-d","created_at":"1970-01-01T00:00:00Z","max_input_tokens":null,"max_tokens":null,"capabilities":null,"lifecycle":null,"line":null,"deprecated_at":null,"retires_at":null}`
	if diff := cmp.Diff(want, string(one.body)); diff != "" || one.status != 200 {
		t.Errorf("%d %s", one.status, diff)
	}
	want = strings.Replace(want, `"id":"model-d","display_name":"model-d"`, `"id":"model-d[1M]","display_name":"model-d[1M]"`, 1)
	for _, path := range []string{"/v1/models/model-d[1M]", "/v1/models/model-d%5B1M%5D"} {
		if one := g.get(path); string(one.body) != want {
			t.Errorf("%s: %d %s", path, one.status, one.body)
		}
	}
	refusal{404, "not_found_error", false, "model-off"}.check(t, g.get("/v1/models/model-off[1m]"))
	open := g.do(call{method: "GET", path: "/v1/models?limit=1000", key: "sk-gateway-open"})
	if n := gjson.GetBytes(open.body, "data.#").Int(); n < 10 {
		t.Errorf("built-in models: %s", open.body)
	}
	for id, want := range map[string]string{
		"claude-opus-5-5":           "Claude Opus 5.5 2026-09-22T00:00:00Z 1000000 128000",
		"claude-haiku-4-5-20251001": "Claude Haiku 4.5 2025-10-15T00:00:00Z 200000 64000",
	} {
		for _, entry := range []gjson.Result{
			gjson.GetBytes(open.body, "data.#(id=="+id+")"),
			gjson.ParseBytes(g.do(call{method: "GET", path: "/v1/models/" + id, key: "sk-gateway-open"}).body),
		} {
			if got := facts(entry); got != want {
				t.Errorf("%s: %s, want %s: %s", id, got, want, entry)
			}
		}
	}
	marked := gjson.ParseBytes(g.do(call{method: "GET", path: "/v1/models/claude-haiku-4-5-20251001[1M]", key: "sk-gateway-open"}).body)
	if got := facts(marked); got != "Claude Haiku 4.5 2025-10-15T00:00:00Z 1000000 64000" || marked.Get("id").Str != "claude-haiku-4-5-20251001[1M]" {
		t.Errorf("with a long context: %s", marked)
	}
	if n := len(g.sim.Requests()); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
}

// facts are what clients go by.
func facts(entry gjson.Result) string {
	var texts []string
	for _, name := range []string{"display_name", "created_at", "max_input_tokens", "max_tokens"} {
		texts = append(texts, entry.Get(name).String())
	}
	return strings.Join(texts, " ")
}

// A model that only the config and a price file know, and one with a date in its
// name that is none.
func TestFactsOfAPriceFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "prices.json")
	if err := os.WriteFile(file, []byte(`{"glm-5":{"max_input_tokens":131072,"max_output_tokens":32768}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	g := serve(t, simulator.Config{}, `
	billing {
		prices `+file+`
	}
	account acct-main {
		api_key sk-upstream-main
		base_url SIM
		models {
			glm-5
			glm-6-20261102
			glm-6-20261399
		}
	}`+alice)
	for id, want := range map[string]string{
		"glm-5":          "glm-5 1970-01-01T00:00:00Z 131072 32768",
		"glm-6-20261102": "glm-6-20261102 2026-11-02T00:00:00Z  ",
		"glm-6-20261399": "glm-6-20261399 1970-01-01T00:00:00Z  ",
	} {
		if got := facts(gjson.ParseBytes(g.get("/v1/models/" + id).body)); got != want {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
}
