package anthropic

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

func client(agent, lang string) http.Header {
	h := http.Header{"X-Stainless-Lang": {lang}}
	if agent != "" {
		h.Set("User-Agent", agent)
	}
	return h
}

func TestIdentityIsThatOfTheFirstClient(t *testing.T) {
	var saved []string
	var ids Identities
	ids.Keep(func(account string, text []byte) { saved = append(saved, account+" "+string(text)) })
	first := ids.See("a", "uuid", client("claude-cli/2.1.9 (external)", "js"))
	if len(first.ClientID) != 64 || first.UserAgent != "claude-cli/2.1.9 (external)" || first.AccountUUID != "uuid" {
		t.Errorf("first: %+v", first)
	}
	for _, step := range []struct{ agent, want, lang string }{
		{"claude-cli/2.1.8 (external)", "claude-cli/2.1.9 (external)", "js"},
		{"Anthropic/Go 9.9.9", "claude-cli/2.1.9 (external)", "js"},
		{"", "claude-cli/2.1.9 (external)", "js"},
		{"claude-cli/2.1.10 (other)", "claude-cli/2.1.10 (other)", "go"},
		{"claude-cli/3", "claude-cli/3", "go"},
	} {
		got := ids.See("a", "uuid", client(step.agent, "go"))
		if got.UserAgent != step.want || got.Stainless["X-Stainless-Lang"] != step.lang || got.ClientID != first.ClientID {
			t.Errorf("after %q: %+v", step.agent, got)
		}
	}
	if len(saved) != 3 {
		t.Errorf("saved %d times, want 3: %q", len(saved), saved)
	}
	if other := ids.See("b", "", client("x/1", "go")); other.ClientID == first.ClientID {
		t.Error("two accounts share a client id")
	}
	var again Identities
	if err := again.Restore("a", []byte(strings.TrimPrefix(saved[2], "a "))); err != nil {
		t.Fatal(err)
	}
	if got := again.See("a", "", client("claude-cli/1", "js")); got.ClientID != first.ClientID || got.UserAgent != "claude-cli/3" {
		t.Errorf("restored: %+v", got)
	}
	if err := again.Restore("c", []byte("{")); err == nil {
		t.Error("a broken document is taken in")
	}
}

func TestIdentityOnTheWire(t *testing.T) {
	const session = "59c35873-8d4a-4303-8e44-e480425b1b00"
	shown := &Identity{
		Account: "a", AccountUUID: "11111111-2222-4333-8444-555555555555", ClientID: strings.Repeat("c", 64),
		UserAgent: "claude-cli/2", Stainless: map[string]string{"X-Stainless-Lang": "js"},
	}
	derived := shown.session(session)
	if uuid.Validate(derived) != nil || derived == session {
		t.Fatalf("the session becomes %q", derived)
	}
	send := func(kind upstream.CredentialKind, userID string) (*http.Request, string) {
		header := http.Header{"User-Agent": {"mine/1"}, "X-Stainless-Os": {"Mine"}, "X-Claude-Code-Session-Id": {session}}
		request, body := prepare(t, `{"model":"m","metadata":{"user_id":`+userID+`,"x":1}}`, header, account(kind, "http://a"), Options{Identity: shown})
		return request, body
	}
	for _, test := range []struct{ name, sent, want string }{
		{"JSON", `"{\"device_id\":\"d\",\"account_uuid\":\"\",\"session_id\":\"` + session + `\",\"ti\":1}"`,
			`{"device_id":"` + shown.ClientID + `","account_uuid":"` + shown.AccountUUID + `","session_id":"` + derived + `","ti":1}`},
		{"text", `"user_0a_account__session_` + session + `"`, "user_" + shown.ClientID + "_account_" + shown.AccountUUID + "_session_" + derived},
		{"a word of the client's", `"alice@example.com"`, shown.userID("alice@example.com")},
	} {
		request, body := send(upstream.OAuth, test.sent)
		if got := gjson.Get(body, "metadata.user_id").String(); got != test.want || strings.Contains(got, "alice") {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		if want := `{"model":"m","metadata":{"user_id":` + quote(test.want) + `,"x":1}}`; body != want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, body, want)
		}
		h := request.Header
		if h.Get("User-Agent") != "claude-cli/2" || h.Get("X-Stainless-Lang") != "js" || h.Get("X-Stainless-Os") != "" || h.Get(sessionHeader) != derived {
			t.Errorf("%s: headers %v", test.name, h)
		}
	}
	if _, body := send(upstream.OAuth, `7`); body != `{"model":"m","metadata":{"user_id":7,"x":1}}` {
		t.Errorf("a user_id that is no text: %s", body)
	}
	request, body := send(upstream.APIKey, `"alice"`)
	if request.Header.Get("User-Agent") != "mine/1" || gjson.Get(body, "metadata.user_id").Str != "alice" {
		t.Errorf("an API key's request is changed: %v %s", request.Header, body)
	}
}
