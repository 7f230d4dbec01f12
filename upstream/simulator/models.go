package simulator

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// apiModels are what the API lists, newest first.
var apiModels = []string{
	"claude-fable-5-2", "claude-mythos-5-2", "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5",
	"claude-fable-5-1", "claude-mythos-5-1", "claude-fable-5", "claude-mythos-5",
	"claude-opus-5", "claude-sonnet-5", "claude-opus-4-8", "claude-opus-4-7", "claude-opus-4-6", "claude-sonnet-4-6",
	"claude-opus-4-5-20251101", "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929",
}

// knows takes the undated form of a dated id as well.
func (s *Server) knows(id string) bool {
	return slices.ContainsFunc(s.models, func(known string) bool {
		return known == id || strings.HasPrefix(known, id+"-20")
	})
}

// modelsDocument is the list, or the one model that the path names.
func (x *exchange) modelsDocument() []byte {
	if id, one := strings.CutPrefix(x.request.Path, "/v1/models/"); one {
		return []byte(modelObject(id))
	}
	query, _ := url.ParseQuery(x.request.RawQuery) // the parts that can be read count
	page, more := pageOf(x.server.models, query)
	objects := make([]string, len(page))
	for i, id := range page {
		objects[i] = modelObject(id)
	}
	first, last := "null", "null"
	if len(page) > 0 {
		first, last = quote(page[0]), quote(page[len(page)-1])
	}
	return []byte(`{"data":[` + strings.Join(objects, ",") + `],"has_more":` + strconv.FormatBool(more) +
		`,"first_id":` + first + `,"last_id":` + last + `}`)
}

// pageOf is the page of ids that limit (default 20, at most 1000), after_id
// and before_id select; before_id selects the page that ends just before it.
func pageOf(ids []string, query url.Values) (page []string, more bool) {
	limit, err := strconv.Atoi(query.Get("limit"))
	if err != nil || limit < 1 {
		limit = 20
	}
	limit = min(limit, 1000)
	if i := slices.Index(ids, query.Get("before_id")); i >= 0 {
		return ids[max(0, i-limit):i], i > limit
	}
	ids = ids[slices.Index(ids, query.Get("after_id"))+1:]
	return ids[:min(limit, len(ids))], len(ids) > limit
}

func modelObject(id string) string {
	line := "null"
	for _, known := range []string{"haiku", "sonnet", "opus", "fable", "mythos"} {
		if strings.Contains(id, known) {
			line = quote(known)
		}
	}
	words := strings.Split(id, "-")
	for i, word := range words {
		if word != "" {
			words[i] = strings.ToUpper(word[:1]) + word[1:]
		}
	}
	return `{"type":"model","id":` + quote(id) + `,"display_name":` + quote(strings.Join(words, " ")) +
		`,"created_at":"2026-01-01T00:00:00Z","max_input_tokens":200000,"max_tokens":64000,"capabilities":null,` +
		`"lifecycle":"active","line":` + line + `,"deprecated_at":null,"retires_at":null}`
}
