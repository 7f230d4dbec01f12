package blackbox_test

import (
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
		refusal{400, "invalid_request_error", false, "limit"}.check(t, g.get("/v1/models"+query))
	}
	for _, id := range []string{"model-off", "claude-sonnet-5-5"} { // a pattern names no model
		refusal{404, "not_found_error", false, id}.check(t, g.get("/v1/models/"+id))
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
	if n := len(g.sim.Requests()); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
}
