package anthropic

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

func TestBearerBeta(t *testing.T) {
	for _, test := range []struct{ sent, model, version, want string }{
		{"", "claude-opus-5-5", "2023-06-01", "claude-code-20250219,oauth-2025-04-20,interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14"},
		{"", "claude-haiku-5-5", "2023-06-01", "oauth-2025-04-20,interleaved-thinking-2025-05-14"},
		{"", "claude-opus-5-5", "2026-10-21", "oauth-2025-04-20"},
		{"", "claude-haiku-5-5", "2026-10-21", "oauth-2025-04-20"},
		{"a,oauth-2025-04-20, b", "m", "2023-06-01", "a,oauth-2025-04-20, b"},
		{"claude-code-20250219,a", "m", "2023-06-01", "claude-code-20250219,oauth-2025-04-20,a"},
		{"a, claude-code-20250219 , b", "m", "2023-06-01", "a, claude-code-20250219 ,oauth-2025-04-20, b"},
		{"a,claude-code-20250219", "m", "2023-06-01", "a,claude-code-20250219,oauth-2025-04-20"},
		{"a,b", "m", "2026-10-21", "oauth-2025-04-20,a,b"},
		{"xoauth-2025-04-20", "m", "2023-06-01", "oauth-2025-04-20,xoauth-2025-04-20"},
	} {
		if got := bearerBeta(test.sent, test.model, test.version); got != test.want {
			t.Errorf("sent %q, model %s, version %s:\n got %q\nwant %q", test.sent, test.model, test.version, got, test.want)
		}
	}
}

func account(kind upstream.CredentialKind, base string, models ...upstream.ModelRule) *upstream.Account {
	u, err := url.Parse(base)
	if err != nil {
		panic(err)
	}
	return &upstream.Account{Name: "a", Platform: upstream.Anthropic, Kind: kind, BaseURL: u, Models: models}
}

func prepare(t testing.TB, body string, header http.Header, to *upstream.Account, options Options) (*http.Request, string) {
	t.Helper()
	call := &Call{Path: "/v1/messages", RawQuery: "beta=true&x=%20", Header: header, Request: mustParse(t, body)}
	request := Prepare(context.Background(), call, to, "s3cret", options)
	sent, err := io.ReadAll(request.Body)
	if err != nil || request.ContentLength != int64(len(sent)) {
		t.Fatalf("body %v, content length %d of %d", err, request.ContentLength, len(sent))
	}
	return request, string(sent)
}

func TestURLAndHeaders(t *testing.T) {
	client := http.Header{
		"Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "Authorization": {"Bearer client"}, "X-Api-Key": {"client"},
		"X-Goog-Api-Key": {"client"}, "Cookie": {"a=b"}, "Connection": {"keep-alive"}, "X-Forwarded-For": {"1.2.3.4"},
		"User-Agent": {"claude-cli/2"}, "X-Stainless-Retry-Count": {"0"}, "X-Claude-Code-Agent-Id": {"7"}, "X-App": {"cli"},
		"Anthropic-Version": {"2030-01-01"}, "Anthropic-Beta": {"new-1", "new-2"}, "Anthropic-Dangerous-Direct-Browser-Access": {"true"},
		"X-My-Trace": {"t"}, "X-Mine-A": {"a"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Site": {"x"}, "Accept-Language": {"*"}, "Content-Type": {"application/json; x"},
	}
	passed := http.Header{
		"Accept": {"application/json"}, "User-Agent": {"claude-cli/2"}, "X-Stainless-Retry-Count": {"0"}, "X-Claude-Code-Agent-Id": {"7"},
		"X-App": {"cli"}, "Anthropic-Version": {"2030-01-01"}, "Anthropic-Dangerous-Direct-Browser-Access": {"true"}, "Sec-Fetch-Mode": {"cors"},
		"Accept-Language": {"*"}, "Content-Type": {"application/json; x"}, "Anthropic-Beta": {"new-1", "new-2"},
	}
	with := func(change ...string) http.Header {
		h := passed.Clone()
		for i := 0; i < len(change); i += 2 {
			h[change[i]] = []string{change[i+1]}
		}
		return h
	}
	extra := account(upstream.APIKey, "https://api.example/v/")
	extra.Header = []upstream.HeaderField{{Name: "x-extra", Value: "1"}, {Name: "User-Agent", Value: "mine"}}
	for _, test := range []struct {
		name    string
		account *upstream.Account
		header  http.Header
		options Options
		url     string
		want    http.Header
	}{
		{"api_key", account(upstream.APIKey, "https://api.example"), client, Options{}, "https://api.example/v1/messages?beta=true&x=%20", with("X-Api-Key", "s3cret")},
		{"setup_token", account(upstream.SetupToken, "https://api.example/sub"), client, Options{}, "https://api.example/sub/v1/messages?beta=true",
			with("Authorization", "Bearer s3cret", "Anthropic-Beta", "oauth-2025-04-20,new-1,new-2")},
		{"oauth, bare client", account(upstream.OAuth, "https://api.example"), http.Header{}, Options{}, "https://api.example/v1/messages?beta=true", http.Header{
			"Content-Type": {"application/json"}, "Anthropic-Version": {"2023-06-01"}, "User-Agent": {""}, "Authorization": {"Bearer s3cret"},
			"Anthropic-Beta": {"claude-code-20250219,oauth-2025-04-20,interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14"}}},
		{"account's header", extra, client, Options{}, "https://api.example/v/v1/messages?beta=true&x=%20", with("X-Api-Key", "s3cret", "X-Extra", "1", "User-Agent", "mine")},
		{"allow_header", account(upstream.APIKey, "https://api.example"), client, Options{Allow: HeaderList{"X-My-Trace", "X-Mine-*", "Cookie", "Authorization"}},
			"https://api.example/v1/messages?beta=true&x=%20", with("X-Api-Key", "s3cret", "X-My-Trace", "t", "X-Mine-A", "a")},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := test.header.Clone()
			request, _ := prepare(t, `{"model":"m"}`, test.header, test.account, test.options)
			if got := request.URL.String(); got != test.url {
				t.Errorf("URL %s, want %s", got, test.url)
			}
			if diff := cmp.Diff(test.want, request.Header); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, test.header); diff != "" {
				t.Errorf("the client's headers changed:\n%s", diff)
			}
		})
	}
}

func TestInjectBeta(t *testing.T) {
	const list = "claude-code-20250219,interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14"
	for _, test := range []struct{ body, sent, want string }{
		{`{"model":"m","tools":[{}]}`, "", list},
		{`{"model":"m","thinking":{"type":"enabled"}}`, "", list},
		{`{"model":"claude-haiku-5","tools":[{}]}`, "", "interleaved-thinking-2025-05-14"},
		{`{"model":"m","tools":[]}`, "", ""},
		{`{"model":"m","thinking":{"type":"adaptive"}}`, "", ""},
		{`{"model":"m","tools":[{}]}`, "mine", "mine"},
	} {
		header := http.Header{}
		if test.sent != "" {
			header.Set("Anthropic-Beta", test.sent)
		}
		request, _ := prepare(t, test.body, header, account(upstream.APIKey, "http://a"), Options{InjectBeta: true})
		if got := request.Header.Get("Anthropic-Beta"); got != test.want {
			t.Errorf("%s, sent %q: got %q, want %q", test.body, test.sent, got, test.want)
		}
	}
}

func TestBodyEdits(t *testing.T) {
	const (
		marked   = `"system":[{"type":"text","text":"You are Claude Code, Anthropic's official CLI for Claude.","cache_control":{"type":"ephemeral"}}],`
		unmarked = `"system":[{"type":"text","text":"You are Claude Code, Anthropic's official CLI for Claude."}],`
		mark     = `{"type":"text","cache_control":{"type":"ephemeral"}}`
	)
	four := mark + "," + mark + "," + mark + "," + mark
	rename := upstream.ModelRule{Match: "m", Upstream: `glm "4"`}
	for _, test := range []struct {
		name, body string
		rules      []upstream.ModelRule
		options    Options
		want       string // "" = the same bytes
	}{
		{"nothing to do", "{ \"model\" : \"m\" , \"n\":1e400, \"\\u0061\":1, \"a\":2,\"a\":3 }\n", nil, Options{}, ""},
		{"rename", ` {"a":[1, 2],"model": "m","z":"m"} `, []upstream.ModelRule{rename}, Options{}, ` {"a":[1, 2],"model": "glm \"4\"","z":"m"} `},
		{"rename every one", `{"model":"x","mod\u0065l":"m"}`, []upstream.ModelRule{rename}, Options{}, `{"model":"glm \"4\"","mod\u0065l":"glm \"4\""}`},
		{"inject", `{ "model":"m"}`, nil, Options{InjectSystem: true}, `{` + marked + ` "model":"m"}`},
		{"inject, three marks", `{"model":"m","tools":[` + mark + `],"messages":[{"content":[` + mark + `,` + mark + `]}]}`, nil, Options{InjectSystem: true},
			`{` + marked + `"model":"m","tools":[` + mark + `],"messages":[{"content":[` + mark + `,` + mark + `]}]}`},
		{"inject, four marks", `{"model":"m","messages":[{"content":[` + four + `]}]}`, nil, Options{InjectSystem: true}, `{` + unmarked + `"model":"m","messages":[{"content":[` + four + `]}]}`},
		{"inject, marks in text only", `{"model":"m","x":"cache_control cache_control cache_control cache_control"}`, nil, Options{InjectSystem: true},
			`{` + marked + `"model":"m","x":"cache_control cache_control cache_control cache_control"}`},
		{"null is a system", `{"model":"m","system":null}`, nil, Options{InjectSystem: true}, ""},
		{"empty is a system", `{"model":"m","system":""}`, nil, Options{InjectSystem: true}, ""},
		{"all at once", `{"model":"m","messages":[{"content":[{"type":"thinking"},{"type":"text"}]}]}`, []upstream.ModelRule{{Match: "*", Upstream: "n"}}, Options{InjectSystem: true, StripThinking: true},
			`{` + marked + `"model":"n","messages":[{"content":[{"type":"text"}]}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := test.want
			if want == "" {
				want = test.body
			}
			if _, got := prepare(t, test.body, http.Header{}, account(upstream.APIKey, "http://a", test.rules...), test.options); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

func TestStripThinking(t *testing.T) {
	const tail = `,{"role":"user","content":[{"type":"tool_result","content":"r"}]}`
	for _, test := range []struct{ name, messages, thinking, want string }{
		{"first block", `{"role":"assistant","content":[{"type":"thinking","thinking":"t"} , {"type":"text"}]}`, ``, `{"role":"assistant","content":[{"type":"text"}]}`},
		{"last block", `{"content":[{"type":"text"},{"type":"redacted_thinking"}]}`, ``, `{"content":[{"type":"text"}]}`},
		{"between", `{"content":[{"type":"text"}, {"type":"thinking"}, {"type":"thinking"}, {"type":"tool_use"}]}`, ``, `{"content":[{"type":"text"}, {"type":"tool_use"}]}`},
		{"untyped", `{"content":[{"thinking":"t"},{"x":1}]}`, ``, `{"content":[{"x":1}]}`},
		{"all messages", `{"content":[{"type":"thinking"},{"a":1}]},{"content":"text"},{"content":[{"b":1},{"type":"thinking"}]}`, ``, `{"content":[{"a":1}]},{"content":"text"},{"content":[{"b":1}]}`},
		{"a message of nothing else", `{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"thinking"}]},{"role":"user","content":"b"}`, ``, `{"role":"user","content":"a"},{"role":"user","content":"b"}`},
		{"what a tool says stays", `{"content":[{"type":"tool_use","input":{"type":"thinking","thinking":"t"}}]}`, ``, ``},
		{"thinking stays on", `{"content":[{"type":"thinking"},{"type":"text"}]},{"role":"user","content":"x"}`, `"thinking":{"type":"enabled","budget_tokens":9},`, `{"content":[{"type":"text"}]},{"role":"user","content":"x"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			body := `{"model":"m",` + test.thinking + `"messages":[` + test.messages + `]}`
			want := body
			if test.want != "" {
				want = `{"model":"m",` + test.thinking + `"messages":[` + test.want + `]}`
			}
			if got := mustParse(t, body).HasThinking(); got != (test.want != "") {
				t.Errorf("HasThinking is %v", got)
			}
			if _, got := prepare(t, body, http.Header{}, account(upstream.APIKey, "http://a"), Options{StripThinking: true}); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
	// The API wants thinking first in a tool's turn, where it is enabled.
	body := `{"model":"m","thinking":{"type":"enabled"},"messages":[{"role":"assistant","content":[{"type":"thinking"},{"type":"tool_use"}]}` + tail + `]}`
	want := `{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use"}]}` + tail + `]}`
	if _, got := prepare(t, body, http.Header{}, account(upstream.APIKey, "http://a"), Options{StripThinking: true}); got != want {
		t.Errorf("in a tool's turn:\n got %s\nwant %s", got, want)
	}
}

// FuzzBody holds that edits leave valid JSON, and everything outside them as
// the client sent it.
func FuzzBody(f *testing.F) {
	f.Add(`{"model":"m","messages":[{"role":"assistant","content":[{"type":"thinking"},{"type":"text","text":"\ud83d\ude00"}]}],"n":1.0e+5}`)
	f.Add(` { "a" : [ ] , "model":"m", "thinking":{"type":"enabled"}, "messages" : [ { "content":[ {"type":"thinking"} ] } , {"role":"user","content":[{"type":"tool_result"}]} ] } `)
	f.Add(`{"model":"m","system":null,"system":[],"model":"m"}`)
	f.Add(`{"model":[],"model":"0"}`)
	f.Fuzz(func(t *testing.T, body string) {
		r, err := ParseRequest([]byte(body))
		if err != nil {
			return
		}
		call := &Call{Path: "/v1/messages", Header: http.Header{}, Request: r}
		for _, options := range []Options{{}, {InjectSystem: true}, {StripThinking: true}, {InjectSystem: true, StripThinking: true}} {
			for _, sent := range []string{r.Model, `o"ther`} {
				to := account(upstream.APIKey, "http://a", upstream.ModelRule{Match: "*", Upstream: sent})
				request := Prepare(context.Background(), call, to, "s", options)
				got, _ := io.ReadAll(request.Body)
				checkEdited(t, r, options, sent, string(got))
			}
		}
		if string(r.Body) != body {
			t.Fatal("the client's body was changed")
		}
	})
}

func checkEdited(t *testing.T, r *Request, options Options, sent, got string) {
	if !gjson.Valid(got) {
		t.Fatalf("not JSON any more: %s", got)
	}
	edits := options.StripThinking && r.HasThinking() || options.InjectSystem && !r.system.Exists() || sent != r.Model
	if !edits && got != string(r.Body) {
		t.Fatalf("without an edit:\n got %s\nwant %s", got, r.Body)
	}
	if options.StripThinking && r.HasThinking() {
		return // compared by table
	}
	// Undo the edits, member by member.
	var before, after []string
	members := func(s string, out *[]string) {
		gjson.Parse(s).ForEach(func(key, value gjson.Result) bool {
			switch {
			case key.Str == "model":
				*out = append(*out, "model")
			default:
				*out = append(*out, key.Raw+":"+value.Raw)
			}
			return true
		})
	}
	members(string(r.Body), &before)
	members(got, &after)
	if options.InjectSystem && !r.system.Exists() {
		if !strings.HasPrefix(after[0], `"system":`) {
			t.Fatalf("no system in %s", got)
		}
		after = after[1:]
	}
	if !reflect.DeepEqual(before, after) {
		t.Fatalf("members changed:\n got %q\nwant %q", after, before)
	}
	// A renamed model is so wherever the key stands, of which the last one counts.
	if name := gjson.Get(got, "model"); sent != r.Model && name.Str != sent {
		t.Fatalf("model of %s, want %q", got, sent)
	}
}
