package faults_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/tidwall/gjson"
)

// got is what a client of the SDK got.
type got struct {
	id string // request-id
	// status and kind of the error; kind "" = none. An error in mid-stream has
	// status 200.
	status int
	kind   string
	final  bool   // x-should-retry: false
	after  string // retry-after
	raw    string // of the error, as it came
	text   string // the answer's, as far as it came
	stop   string // stop_reason; "" = the answer has not ended
	events int
}

// ask asks through the SDK, which does not retry.
func (g *gateway) ask(ctx context.Context, user, model string, stream bool, text string, more ...option.RequestOption) got {
	g.t.Helper()
	client := anthropic.NewClient(append(more, option.WithBaseURL(g.url), option.WithAPIKey(keyOf(user)),
		option.WithMaxRetries(0), option.WithHTTPClient(g.http))...)
	params := anthropic.MessageNewParams{
		Model: model, MaxTokens: 512,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))},
	}
	var out got
	var message *anthropic.Message
	var response *http.Response
	var err error
	if !stream {
		message, err = client.Messages.New(ctx, params, option.WithResponseInto(&response))
	} else {
		message = new(anthropic.Message)
		events := client.Messages.NewStreaming(ctx, params, option.WithResponseInto(&response))
		for events.Next() {
			out.events++
			if err = message.Accumulate(events.Current()); err != nil {
				g.t.Errorf("the SDK can't make a message of the stream: %v", err)
				break
			}
		}
		if err == nil {
			err = events.Err()
		}
		events.Close()
	}
	if failure := new(anthropic.Error); errors.As(err, &failure) {
		response = failure.Response
		out.kind, out.raw = string(failure.Type()), failure.RawJSON()
		if out.kind == "" { // the SDK knows no such type
			out.kind = gjson.Get(out.raw, "error.type").Str
		}
		if out.kind == "" {
			out.kind = "?"
		}
		// Not the SDK's field: upstream's own body has its own id.
	} else if err != nil {
		out.kind, out.raw = "transport", err.Error()
	}
	if response != nil {
		out.id, out.status = response.Header.Get("Request-Id"), response.StatusCode
		out.after, out.final = response.Header.Get("Retry-After"), response.Header.Get("X-Should-Retry") == "false"
		noLeak(g.t, response.Header, out.raw)
		if strings.Contains(out.raw, strings.TrimPrefix(g.sim.URL, "http://")) {
			g.t.Errorf("the client sees the upstream's address: %s", out.raw)
		}
	}
	if message != nil {
		for _, block := range message.Content {
			out.text += block.Text
		}
		out.stop = string(message.StopReason)
	}
	return out
}

// noLeak looks for traces of accounts and of upstream's own headers.
func noLeak(t testing.TB, header http.Header, body string) {
	t.Helper()
	for name, values := range header {
		if strings.HasPrefix(name, "Anthropic-Ratelimit") || strings.HasPrefix(name, "Anthropic-Organization") ||
			strings.HasPrefix(header.Get(name), "req_011Sim") {
			t.Errorf("the client sees the header %s: %s", name, values)
		}
		body += strings.Join(values, ",")
	}
	for _, trace := range []string{upstreamSecret, gatewaySecret, accountName} {
		if strings.Contains(body, trace) {
			t.Errorf("the client sees %q in %s", trace, body)
		}
	}
}
