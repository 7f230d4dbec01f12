package simulator_test

import (
	"encoding/json"
	"errors"
	"testing"

	v1 "github.com/anthropics/anthropic-sdk-go"
	v1option "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func start(t *testing.T, config simulator.Config) *simulator.Server {
	t.Helper()
	sim, err := simulator.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return sim
}

func sdk(sim *simulator.Server) anthropic.Client {
	return anthropic.NewClient(option.WithBaseURL(sim.URL), option.WithAPIKey("key-a"), option.WithMaxRetries(0))
}

func ask(text string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model:     "claude-sonnet-5-5",
		MaxTokens: 4096,
		Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))},
	}
}

// stream reads a whole stream the way an SDK's user does.
func stream(t *testing.T, client anthropic.Client, params anthropic.MessageNewParams) (anthropic.Message, error) {
	t.Helper()
	var whole anthropic.Message
	events := client.Messages.NewStreaming(t.Context(), params)
	defer events.Close()
	for events.Next() {
		if err := whole.Accumulate(events.Current()); err != nil {
			t.Fatalf("accumulating %s: %v", events.Current().RawJSON(), err)
		}
	}
	return whole, events.Err()
}

func TestSDKReadsTheSameFromStreamAndDocument(t *testing.T) {
	sim := start(t, simulator.Config{})
	client := sdk(sim)
	plain := ask("héllo, wörld 🌧, how are you today?")
	thinking := ask("think")
	thinking.Thinking = anthropic.ThinkingConfigParamUnion{OfAdaptive: &anthropic.ThinkingConfigAdaptiveParam{}}
	tool := ask("USE_TOOL please")
	tool.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{
		Name: "get_weather",
		InputSchema: anthropic.ToolInputSchemaParam{
			Properties: map[string]any{"location": map[string]any{"type": "string"}, "unit": map[string]any{"enum": []string{"celsius"}}},
			Required:   []string{"location", "unit"},
		},
	}}}
	short := ask("a long question that is repeated in the answer, which has to end early")
	short.MaxTokens = 5

	for name, test := range map[string]struct {
		params anthropic.MessageNewParams
		blocks []string
		reason anthropic.StopReason
	}{
		"text":       {plain, []string{"text"}, "end_turn"},
		"thinking":   {thinking, []string{"thinking", "text"}, "end_turn"},
		"tool":       {tool, []string{"text", "tool_use"}, "tool_use"},
		"max_tokens": {short, []string{"text"}, "max_tokens"},
	} {
		t.Run(name, func(t *testing.T) {
			document, err := client.Messages.New(t.Context(), test.params)
			if err != nil {
				t.Fatal(err)
			}
			streamed, err := stream(t, client, test.params)
			if err != nil {
				t.Fatal(err)
			}
			var kinds []string
			for _, b := range document.Content {
				kinds = append(kinds, b.Type)
			}
			if diff := cmp.Diff(test.blocks, kinds); diff != "" {
				t.Error(diff)
			}
			if document.StopReason != test.reason || streamed.StopReason != test.reason {
				t.Errorf("stop reasons %q and %q, want %q", document.StopReason, streamed.StopReason, test.reason)
			}
			if document.Usage.InputTokens == 0 || document.Usage.OutputTokens == 0 {
				t.Errorf("no usage: %s", document.Usage.RawJSON())
			}
			if diff := cmp.Diff(content(document), content(&streamed)); diff != "" {
				t.Errorf("stream differs from document: %s", diff)
			}
			requests := sim.Requests()
			last := requests[len(requests)-1]
			if got := last.OutputTokens; got != document.Usage.OutputTokens {
				t.Errorf("%d output tokens recorded, %d reported", got, document.Usage.OutputTokens)
			}
		})
	}
}

type said struct {
	Type, Text, Thinking, Signature, Name, Input string
	In, Out                                      int64
}

func content(m *anthropic.Message) []said {
	var out []said
	for _, b := range m.Content {
		s := said{b.Type, b.Text, b.Thinking, b.Signature, b.Name, "", m.Usage.InputTokens, m.Usage.OutputTokens}
		if len(b.Input) > 0 {
			var input any
			if err := json.Unmarshal(b.Input, &input); err != nil {
				s.Input = err.Error()
			}
			text, _ := json.Marshal(input)
			s.Input = string(text)
		}
		out = append(out, s)
	}
	return out
}

func TestSDKReadsModelsAndCounts(t *testing.T) {
	sim := start(t, simulator.Config{})
	client := sdk(sim)
	counted, err := client.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{
		Model: "claude-sonnet-5-5", Messages: ask("how many?").Messages})
	if err != nil || counted.InputTokens < 10 {
		t.Errorf("count_tokens: %+v, %v", counted, err)
	}
	var ids []string
	pages := client.Models.ListAutoPaging(t.Context(), anthropic.ModelListParams{Limit: anthropic.Int(5)})
	for pages.Next() {
		ids = append(ids, pages.Current().ID)
	}
	if err := pages.Err(); err != nil {
		t.Fatal(err)
	}
	if len(ids) != 18 || ids[0] != "claude-fable-5-2" || ids[17] != "claude-sonnet-4-5-20250929" {
		t.Errorf("models over all pages: %q", ids)
	}
	model, err := client.Models.Get(t.Context(), "claude-haiku-4-5", anthropic.ModelGetParams{})
	if err != nil || model.DisplayName != "Claude Haiku 4 5" {
		t.Errorf("one model: %+v, %v", model, err)
	}
	_, err = client.Models.Get(t.Context(), "gpt", anthropic.ModelGetParams{})
	if failure := new(anthropic.Error); !errors.As(err, &failure) || failure.StatusCode != 404 {
		t.Errorf("unknown model: %v", err)
	}
	if a := sim.Account("key-a"); a.MaxInFlight != 0 || a.Requests != 7 {
		t.Errorf("counting and listing took slots: %+v", a)
	}
}

func TestSDKv1(t *testing.T) {
	sim := start(t, simulator.Config{})
	client := v1.NewClient(v1option.WithBaseURL(sim.URL), v1option.WithAPIKey("key-v1"), v1option.WithMaxRetries(0))
	params := v1.MessageNewParams{
		Model: "claude-opus-5-5", MaxTokens: 100,
		Messages: []v1.MessageParam{v1.NewUserMessage(v1.NewTextBlock("hello"))},
	}
	document, err := client.Messages.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	var streamed v1.Message
	events := client.Messages.NewStreaming(t.Context(), params)
	for events.Next() {
		if err := streamed.Accumulate(events.Current()); err != nil {
			t.Fatal(err)
		}
	}
	if err := events.Err(); err != nil {
		t.Fatal(err)
	}
	if document.Content[0].Text == "" || document.Content[0].Text != streamed.Content[0].Text {
		t.Errorf("document says %q, stream %q", document.Content[0].Text, streamed.Content[0].Text)
	}
	if got := sim.Account("key-v1").Messages; got != 2 {
		t.Errorf("%d messages counted, want 2", got)
	}
}

func TestSDKSeesErrors(t *testing.T) {
	sim := start(t, simulator.Config{})
	client := sdk(sim)
	for _, status := range []int{400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 503, 504, 529} {
		sim.Queue("key-a", simulator.Reply{Status: status})
		_, err := client.Messages.New(t.Context(), ask("hi"))
		failure := new(anthropic.Error)
		if !errors.As(err, &failure) || failure.StatusCode != status || failure.RequestID == "" {
			t.Errorf("status %d: %v", status, err)
		}
	}
	if _, err := client.Messages.New(t.Context(), ask("hi")); err != nil {
		t.Errorf("after the queue: %v", err)
	}
}

func TestThinkingIsBoundToItsCredentialAndPrompt(t *testing.T) {
	sim := start(t, simulator.Config{CheckThinking: true})
	client := sdk(sim)
	params := ask("think")
	params.Thinking = anthropic.ThinkingConfigParamOfEnabled(1024)
	params.System = []anthropic.TextBlockParam{{Text: "Be kind."}}
	answer, err := client.Messages.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	next := func(change func(*anthropic.MessageNewParams)) error {
		again := params
		again.Messages = append(append([]anthropic.MessageParam(nil), params.Messages...), answer.ToParam(),
			anthropic.NewUserMessage(anthropic.NewTextBlock("go on")))
		change(&again)
		_, err := client.Messages.New(t.Context(), again)
		return err
	}
	if err := next(func(*anthropic.MessageNewParams) {}); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	wantMessage(t, "altered", next(func(p *anthropic.MessageNewParams) {
		p.Messages[1].OfAssistant.Content[0].OfThinking.Thinking += "!"
	}), "messages.1.content.0: "+simulator.InvalidSignature)
	wantMessage(t, "other prompt", next(func(p *anthropic.MessageNewParams) {
		p.System = []anthropic.TextBlockParam{{Text: "Be rude."}}
	}), "messages.1.content.0: "+simulator.BoundElsewhere)
	client = anthropic.NewClient(option.WithBaseURL(sim.URL), option.WithAPIKey("key-b"), option.WithMaxRetries(0))
	wantMessage(t, "other credential", next(func(*anthropic.MessageNewParams) {}),
		"messages.1.content.0: "+simulator.BoundElsewhere)
	wantMessage(t, "tool turn without its thinking", next(func(p *anthropic.MessageNewParams) {
		p.Messages[1] = anthropic.NewAssistantMessage(anthropic.NewToolUseBlock("toolu_1", map[string]any{}, "look"))
		p.Messages[2] = anthropic.NewUserMessage(anthropic.NewToolResultBlock("toolu_1", "seen", false))
	}), "messages.1.content.0.type: "+simulator.ThinkingExpected)
}

func wantMessage(t *testing.T, what string, err error, message string) {
	t.Helper()
	failure := new(anthropic.Error)
	if !errors.As(err, &failure) || failure.StatusCode != 400 {
		t.Errorf("%s: got %v, want a 400", what, err)
		return
	}
	var envelope struct{ Error struct{ Message string } }
	if err := json.Unmarshal([]byte(failure.RawJSON()), &envelope); err != nil || envelope.Error.Message != message {
		t.Errorf("%s: message %q, want %q (%v)", what, envelope.Error.Message, message, err)
	}
}
