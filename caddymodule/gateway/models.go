package gateway

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

const modelsPath = "/v1/models"

// Page sizes of GET /v1/models, as the API has them.
const (
	defaultModelLimit = 20
	maxModelLimit     = 1000
)

// model is an entry of GET /v1/models. What the gateway can't know is null.
type model struct {
	Type           string  `json:"type"`
	ID             string  `json:"id"`
	DisplayName    string  `json:"display_name"`
	CreatedAt      string  `json:"created_at"`
	MaxInputTokens *int64  `json:"max_input_tokens"`
	MaxTokens      *int64  `json:"max_tokens"`
	Capabilities   *string `json:"capabilities"`
	Lifecycle      *string `json:"lifecycle"`
	Line           *string `json:"line"`
	DeprecatedAt   *string `json:"deprecated_at"`
	RetiresAt      *string `json:"retires_at"`
}

// modelList is the answer of GET /v1/models: the API's shape, and the `object`
// that OpenAI's clients look for.
type modelList struct {
	Object  string  `json:"object"`
	Data    []model `json:"data"`
	HasMore bool    `json:"has_more"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
}

// isModelPath reports whether a path is that of one model.
func isModelPath(path string) bool {
	id, ok := strings.CutPrefix(path, modelsPath+"/")
	return ok && id != "" && !strings.Contains(id, "/")
}

// modelNames are the models that the key may ask for: those that its group's
// accounts name, else the platform's built-in list.
func (x *exchange) modelNames() []string {
	platform := upstream.Anthropic
	var names []string
	for _, group := range x.key.Groups {
		names = append(names, x.gateway.Scheduler.Models(group.Name, x.force)...)
	}
	switch {
	case len(x.key.Groups) == 0:
		names = slices.Clone(x.gateway.Scheduler.Models("", x.force))
	default:
		platform = x.key.Groups[0].Platform
	}
	if x.force != "" {
		platform = x.force
	}
	if len(names) == 0 {
		names = slices.Clone(builtInModels(platform))
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !x.key.mayAsk(name) })
	slices.Sort(names)
	return slices.Compact(names)
}

// builtInModels are a platform's own models, as far as they are known.
func builtInModels(platform upstream.Platform) []string {
	switch platform {
	case upstream.Anthropic, upstream.Antigravity:
		return anthropic.BuiltInModels
	}
	return nil
}

// listModels answers GET /v1/models.
func (x *exchange) listModels() error {
	query := x.r.URL.Query()
	limit := defaultModelLimit
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxModelLimit {
			return invalid("limit: must be a number from 1 to " + strconv.Itoa(maxModelLimit))
		}
		limit = n
	}
	names := x.modelNames()
	list := modelList{Object: "list", Data: []model{}}
	page := names
	switch after, before := modelname.Base(query.Get("after_id")), modelname.Base(query.Get("before_id")); {
	case after != "":
		page = page[min(len(page), slices.Index(page, after)+1):]
		list.HasMore = len(page) > limit
		page = page[:min(limit, len(page))]
	case before != "":
		if at := slices.Index(page, before); at >= 0 {
			page = page[:at]
		}
		list.HasMore = len(page) > limit
		page = page[max(0, len(page)-limit):]
	default:
		list.HasMore = len(page) > limit
		page = page[:min(limit, len(page))]
	}
	for _, name := range page {
		list.Data = append(list.Data, x.modelOf(name))
	}
	if len(page) > 0 {
		list.FirstID, list.LastID = &page[0], &page[len(page)-1]
	}
	return x.answerJSON(list)
}

// oneModel answers GET /v1/models/{id}, under the id that the client wrote: "[1m]"
// after it is no part of it.
func (x *exchange) oneModel() error {
	id := strings.TrimPrefix(x.path, modelsPath+"/")
	if !slices.Contains(x.modelNames(), modelname.Base(id)) {
		return errNotFound("model: " + shorten(id))
	}
	return x.answerJSON(x.modelOf(id))
}

// modelOf makes the entry of a model. SDKs need a date: the epoch, as the API
// itself has it, where none is known.
func (x *exchange) modelOf(id string) model {
	facts, _ := x.config.Prices.Facts(id)
	released := facts.Released
	if released.IsZero() {
		released = modelname.Date(id)
	}
	if released.IsZero() {
		released = time.Unix(0, 0).UTC()
	}
	m := model{Type: "model", ID: id, DisplayName: cmp.Or(facts.DisplayName, id), CreatedAt: released.Format(time.RFC3339)}
	if facts.MaxInputTokens > 0 {
		m.MaxInputTokens = &facts.MaxInputTokens
	}
	if facts.MaxOutputTokens > 0 {
		m.MaxTokens = &facts.MaxOutputTokens
	}
	return m
}

func (x *exchange) answerJSON(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return &stepError{doing: "encoding an answer", err: err}
	}
	x.out.whole(http.StatusOK, http.Header{"Content-Type": {"application/json"}}, body)
	return nil
}
