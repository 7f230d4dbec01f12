package anthropic

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// conversation is a body of about 50 kB, the size of Claude Code's first turn.
func conversation() string {
	prose := strings.Repeat(`Some text, with \"quotes\" and\nlines. `, 25)
	var b strings.Builder
	fmt.Fprintf(&b, `{"model":"claude-opus-5-5","messages":[{"role":"user","content":[{"type":"text","text":"%s"}]},`, prose)
	fmt.Fprintf(&b, `{"role":"assistant","content":[{"type":"thinking","thinking":"%s","signature":"x"},{"type":"text","text":"%s"}]}],"system":[`, prose, prose)
	fmt.Fprintf(&b, `{"type":"text","text":"%s","cache_control":{"type":"ephemeral"}}],"tools":[`, strings.Repeat(prose, 10))
	for i := range 12 {
		fmt.Fprintf(&b, `{"name":"tool%d","description":"%s","input_schema":{"type":"object","properties":{"a":{"type":"string"}}}},`, i, strings.Repeat(prose, 2))
	}
	b.WriteString(`{"name":"last"}],"max_tokens":128000,"stream":true}`)
	return b.String()
}

func BenchmarkParseRequest(b *testing.B) {
	body := []byte(conversation())
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRequest(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSession(b *testing.B) {
	r := mustParse(b, conversation())
	named := http.Header{"X-Claude-Code-Session-Id": {"59c35873-8d4a-4303-8e44-e480425b1b00"}}
	for _, bench := range []struct {
		name   string
		header http.Header
	}{{"header", named}, {"content", http.Header{}}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Session(bench.header, "k", Conversation)
			}
		})
	}
}

func BenchmarkBodyEdit(b *testing.B) {
	body := conversation()
	r := mustParse(b, body)
	for _, bench := range []struct {
		name, model string
		options     Options
	}{
		{"none", r.Model, Options{}},
		{"rename", "glm-4.6", Options{}},
		{"strip thinking", r.Model, Options{StripThinking: true}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				r.body(bench.model, bench.options)
			}
		})
	}
}

func BenchmarkBetaHeader(b *testing.B) {
	const sent = "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,effort-2025-11-24"
	b.ReportAllocs()
	for b.Loop() {
		bearerBeta(sent, "claude-opus-5-5", "2023-06-01")
	}
}

func BenchmarkPrepare(b *testing.B) {
	call := &Call{Path: "/v1/messages", RawQuery: "beta=true", Request: mustParse(b, conversation()), Header: http.Header{
		"Accept": {"application/json"}, "X-Api-Key": {"k"}, "User-Agent": {"claude-cli"}, "Anthropic-Version": {"2023-06-01"}, "X-Stainless-Lang": {"js"}, "X-App": {"cli"},
	}}
	to := account(upstream.OAuth, "https://api.anthropic.com")
	b.ReportAllocs()
	for b.Loop() {
		Prepare(context.Background(), call, to, "secret", Options{})
	}
}
