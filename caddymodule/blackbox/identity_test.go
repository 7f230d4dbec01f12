package blackbox_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// An account with identity shows one client, whoever is behind it, before and
// after a restart.
func TestIdentity(t *testing.T) {
	const session = "59c35873-8d4a-4303-8e44-e480425b1b00"
	dir := t.TempDir()
	send := func(agent, device string) simulator.Request {
		g := serve(t, simulator.Config{}, "store embedded "+dir+`
	account acct-main {
		setup_token sk-upstream-main
		account_uuid 11111111-2222-4333-8444-555555555555
		base_url SIM
	}`+alice+"request {\n\t\tidentity on\n\t}")
		defer g.stop()
		body := strings.Replace(asking("claude-sonnet-5-5", true), "{", `{"metadata":{"user_id":"{\"device_id\":\"`+device+`\",\"account_uuid\":\"\",\"session_id\":\"`+session+`\"}"},`, 1)
		header := http.Header{"User-Agent": {agent}, "X-Stainless-Os": {agent}, "X-Claude-Code-Session-Id": {session}}
		if a := g.do(call{header: header, body: body}); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return g.last()
	}
	first, second := send("claude-cli/2.0 (a)", "one"), send("claude-cli/1.9 (b)", "two")
	for _, name := range []string{"User-Agent", "X-Stainless-Os", "X-Claude-Code-Session-Id"} {
		if a, b := first.Header.Get(name), second.Header.Get(name); a != b || a == session {
			t.Errorf("%s: %q, then %q", name, a, b)
		}
	}
	user := gjson.GetBytes(first.Body, "metadata.user_id").String()
	if user != gjson.GetBytes(second.Body, "metadata.user_id").String() || strings.Contains(user, session) ||
		gjson.Get(user, "account_uuid").Str != "11111111-2222-4333-8444-555555555555" || gjson.Get(user, "session_id").Str != first.Header.Get("X-Claude-Code-Session-Id") {
		t.Errorf("user_id: %s, then %s", user, gjson.GetBytes(second.Body, "metadata.user_id"))
	}
}
