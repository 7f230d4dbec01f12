package anthropic

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// Options are the options of the `request` block that shape what is sent.
type Options struct {
	// InjectSystem gives a request without a system the block that the Claude
	// Code client identifies itself with.
	InjectSystem bool
	// StripThinking takes all thinking blocks out of the messages.
	StripThinking bool
	// InjectBeta adds a beta header to requests of api_key accounts that use
	// tools or thinking and came without one.
	InjectBeta bool
	// Identity, where set, hides the people behind an oauth or setup_token
	// account.
	Identity *Identity
	// Allow lets more of the client's headers through.
	Allow HeaderList
}

// HeaderList names headers in their canonical form; a trailing * matches a
// prefix.
type HeaderList []string

func (l HeaderList) has(name string) bool {
	for _, pattern := range l {
		if prefix, wild := strings.CutSuffix(pattern, "*"); wild && strings.HasPrefix(name, prefix) || name == pattern {
			return true
		}
	}
	return false
}

// passing are the client's headers that go upstream; the prefixes are of
// families whose members the clients add to every month.
var passing = HeaderList{
	"Accept", "Accept-Language", "Content-Type", "User-Agent", "X-App", "Sec-Fetch-Mode",
	"X-Stainless-*", "Anthropic-*", "X-Claude-Code-*",
}

// Call is one request of a client, to be sent to whichever account is picked.
type Call struct {
	// Path is the API's: /v1/messages or /v1/messages/count_tokens.
	Path string
	// RawQuery is the client's.
	RawQuery string
	Header   http.Header
	*Request

	sent *body // of the last Prepare
}

// Prepare makes the request for one account. secret is the account's credential
// as it is now. What the client asks is not changed, so that another account can
// be asked with it.
func Prepare(ctx context.Context, call *Call, account *upstream.Account, secret string, options Options) *http.Request {
	model, _ := account.Models.Resolve(call.Model)
	if !account.Bearer() {
		options.Identity = nil
	}
	body := newBody(call.body(model, options))
	call.sent = body
	out := &http.Request{
		Method:        http.MethodPost,
		URL:           target(account, call),
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        call.header(account, secret, model, options),
		ContentLength: int64(len(body.bytes)),
		Body:          io.NopCloser(body.reader),
		GetBody:       body.getBody,
	}
	out.Host = out.URL.Host
	return out.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: body.wrote}))
}

// Drop lets go of the body, once no other account will be asked: a long stream
// should not hold a large request in memory. The request that Prepare made last
// may be under way still; it is sent whole.
func (call *Call) Drop() {
	if call.sent != nil {
		call.sent.drop()
	}
	call.Request.drop()
}

// target is the account's URL for the call.
func target(account *upstream.Account, call *Call) *url.URL {
	u := *account.BaseURL
	u.Path = strings.TrimSuffix(u.Path, "/") + call.Path
	u.RawPath = ""
	if account.Bearer() {
		u.RawQuery = "beta=true"
	} else {
		u.RawQuery = call.RawQuery
	}
	return &u
}

func (call *Call) header(account *upstream.Account, secret, model string, options Options) http.Header {
	out := make(http.Header, len(call.Header)+4)
	for name, values := range call.Header {
		if passing.has(name) || options.Allow.has(name) && !upstream.NeverPasses(name) {
			out[name] = values
		}
	}
	if out["Content-Type"] == nil {
		out["Content-Type"] = []string{"application/json"}
	}
	version := out.Get("Anthropic-Version")
	if version == "" {
		version = defaultVersion
		out["Anthropic-Version"] = []string{version}
	}
	if out["User-Agent"] == nil {
		out["User-Agent"] = []string{""} // or net/http would add its own
	}
	sent := strings.Join(out["Anthropic-Beta"], ",")
	switch {
	case account.Bearer():
		out["Anthropic-Beta"] = []string{bearerBeta(sent, model, version)}
		out["Authorization"] = []string{"Bearer " + secret}
	default:
		if sent == "" && options.InjectBeta && call.usesToolsOrThinking() {
			out["Anthropic-Beta"] = []string{keyBeta(model)}
		}
		out["X-Api-Key"] = []string{secret}
	}
	if options.Identity != nil {
		options.Identity.apply(out)
	}
	for _, field := range account.Header {
		out[http.CanonicalHeaderKey(field.Name)] = []string{field.Value}
	}
	return out
}

func (r *Request) usesToolsOrThinking() bool {
	return len(r.tools.Raw) > 2 && r.tools.IsArray() || r.thinking.Get("type").Str == "enabled"
}

// body is what goes upstream: the client's bytes, but for the edits.
func (r *Request) body(model string, options Options) []byte {
	var edits []edit
	if model != r.Model {
		quoted := quote(model)
		for _, at := range r.models {
			edits = append(edits, edit{at, quoted})
		}
	}
	if options.InjectSystem && !r.system.Exists() {
		edits = append(edits, edit{span{r.open, r.open}, r.clientSystem()})
	}
	if options.StripThinking {
		edits = append(edits, r.stripThinking()...)
	}
	if options.Identity != nil && r.userIDAt != (span{}) {
		edits = append(edits, edit{r.userIDAt, quote(options.Identity.userID(r.userID))})
	}
	return apply(r.Body, edits)
}

// maxMarks is how many cache_control marks the API takes in one request.
const maxMarks = 4

// clientSystem is the `system` member that the Claude Code client identifies
// itself with, with the comma after it, marked for the cache if a mark is left.
func (r *Request) clientSystem() string {
	mark := `,"cache_control":{"type":"ephemeral"}`
	if bytes.Count(r.Body, []byte("cache_control")) >= maxMarks && countMarks(gjson.Parse(textOf(r.Body))) >= maxMarks {
		mark = ""
	}
	return `"system":[{"type":"text","text":"You are Claude Code, Anthropic's official CLI for Claude."` + mark + `}],`
}

// countMarks counts the cache_control members anywhere in v.
func countMarks(v gjson.Result) (n int) {
	if !v.IsObject() && !v.IsArray() {
		return 0
	}
	v.ForEach(func(key, value gjson.Result) bool {
		if key.Str == "cache_control" && value.IsObject() {
			n++
		} else {
			n += countMarks(value)
		}
		return true
	})
	return n
}

// quote makes a JSON string of a model name.
func quote(s string) string {
	return string(gjson.AppendJSONString(make([]byte, 0, len(s)+2), s))
}

// Sent returns the model name that the account gets for the call's model.
func (call *Call) Sent(account *upstream.Account) string {
	model, _ := account.Models.Resolve(call.Request.Model)
	return model
}
