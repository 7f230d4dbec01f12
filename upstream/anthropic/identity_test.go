package anthropic

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

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
