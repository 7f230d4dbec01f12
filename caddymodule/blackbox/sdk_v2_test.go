package blackbox_test

import (
	"context"
	"errors"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

// v2 is github.com/anthropics/anthropic-sdk-go/v2.
type v2 struct{ client anthropic.Client }

func openV2(bearer bool) func(url, key string) (sdk, func(string) talk) {
	return func(url, key string) (sdk, func(string) talk) {
		credential := option.WithHeader("X-Api-Key", key)
		if bearer {
			credential = option.WithAPIKey(key) // this version sends it as bearer
		}
		client := v2{anthropic.NewClient(option.WithBaseURL(url), credential, option.WithMaxRetries(0))}
		return client, func(text string) talk {
			return talk{model: "claude-sonnet-5-5", turns: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))}}
		}
	}
}

func (c v2) params(t talk) anthropic.MessageNewParams {
	params := anthropic.MessageNewParams{Model: t.model, MaxTokens: 4096, Messages: t.turns.([]anthropic.MessageParam)}
	if t.thinking {
		params.Thinking = anthropic.ThinkingConfigParamOfEnabled(1024)
	}
	if t.tool {
		params.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{
			Name: "get_weather",
			InputSchema: anthropic.ToolInputSchemaParam{
				Properties: map[string]any{"place": map[string]any{"type": "string"}},
				Required:   []string{"place"},
			},
		}}}
	}
	return params
}

func (c v2) reply(params anthropic.MessageNewParams, m *anthropic.Message) reply {
	out := reply{stop: string(m.StopReason), in: m.Usage.InputTokens, out: m.Usage.OutputTokens}
	called := ""
	for _, b := range m.Content {
		out.said = append(out.said, said{b.Type, b.Text, b.Thinking, b.Signature, b.Name, string(b.Input)})
		if b.Type == "tool_use" {
			called = b.ID
		}
	}
	out.then = func(text string) talk {
		next := anthropic.NewUserMessage(anthropic.NewTextBlock(text))
		if called != "" {
			next = anthropic.NewUserMessage(anthropic.NewToolResultBlock(called, text, false))
		}
		turns := append(append([]anthropic.MessageParam(nil), params.Messages...), m.ToParam(), next)
		return talk{model: params.Model, turns: turns}
	}
	return out
}

func (c v2) say(ctx context.Context, t talk) (reply, error) {
	params := c.params(t)
	message, err := c.client.Messages.New(ctx, params)
	if err != nil {
		return reply{}, err
	}
	return c.reply(params, message), nil
}

func (c v2) stream(ctx context.Context, t talk, each func(event string)) (reply, error) {
	params := c.params(t)
	events := c.client.Messages.NewStreaming(ctx, params)
	defer events.Close()
	var whole anthropic.Message
	for events.Next() {
		event := events.Current()
		if err := whole.Accumulate(event); err != nil {
			return reply{}, err
		}
		each(event.Type)
	}
	return c.reply(params, &whole), events.Err()
}

func (c v2) count(ctx context.Context, t talk) (int64, error) {
	counted, err := c.client.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{Model: t.model, Messages: c.params(t).Messages})
	if err != nil {
		return 0, err
	}
	return counted.InputTokens, nil
}

func (c v2) models(ctx context.Context, limit int64) (ids []string, err error) {
	pages := c.client.Models.ListAutoPaging(ctx, anthropic.ModelListParams{Limit: anthropic.Int(limit)})
	for pages.Next() {
		ids = append(ids, pages.Current().ID)
	}
	return ids, pages.Err()
}

func (c v2) model(ctx context.Context, id string) (string, error) {
	model, err := c.client.Models.Get(ctx, id, anthropic.ModelGetParams{})
	if err != nil {
		return "", err
	}
	return model.ID, nil
}

func (c v2) failure(err error) (status int, kind, requestID string) {
	failure := new(anthropic.Error)
	if !errors.As(err, &failure) {
		return 0, "", ""
	}
	return failure.StatusCode, string(failure.Type()), failure.RequestID
}
