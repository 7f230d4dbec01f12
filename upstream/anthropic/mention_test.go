package anthropic

import (
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// TestRenamedErrors: upstream's name for a model is in no error, however it is spelt,
// and every other byte stays.
func TestRenamedErrors(t *testing.T) {
	for _, test := range []struct{ sent, body, want string }{
		// As upstreams say it.
		{"glm-4.6", `{"type":"error","error":{"type":"not_found_error","message":"model: glm-4.6"},"request_id":"r"}`,
			`{"type":"error","error":{"type":"not_found_error","message":"model: claude-x"},"request_id":"r"}`},
		{"glm-4.6", `{"error":{"message":"glm-4.6: not \"glm-4.6\"","model":"glm-4.6"} ,"models":["glm-4.6", "glm-4.7"]}`,
			`{"error":{"message":"claude-x: not \"claude-x\"","model":"claude-x"} ,"models":["claude-x", "glm-4.7"]}`},
		{"glm-4.6", `{"glm-4.6":{"error":{"a":[["glm-4.6"]]}}}`, `{"claude-x":{"error":{"a":[["claude-x"]]}}}`},
		{"glm-4.6", `"glm-4.6"`, `"claude-x"`},
		// Letter case and escapes.
		{"glm-4.6", `{"a":"GLM-4.6 Glm-4.6"}`, `{"a":"claude-x claude-x"}`},
		{"GLM-4.6", `{"a":"glm-4.6"}`, `{"a":"claude-x"}`},
		{"glm-4.6", `{"a":"glm\u002d4\u002E6 \u0067\u004cm-4.6"}`, `{"a":"claude-x claude-x"}`},
		{"z-ai/glm-4.6", `{"a":"z-ai/glm-4.6 z-ai\/glm-4.6 z-ai\u002fglm-4.6"}`, `{"a":"claude-x claude-x claude-x"}`},
		{"modèle-1", `{"a":"modèle-1 MODÈLE-1 mod\u00e8le-1 mod\u00C8le-1"}`, `{"a":"claude-x claude-x claude-x claude-x"}`},
		{"🦙-1", `{"a":"🦙-1 \ud83e\udd99-1 \ud83e-1"}`, `{"a":"claude-x claude-x \ud83e-1"}`},
		{"glm-4.6", `{"a":"{\"model\":\"glm-4.6\",\"b\":\"glm\\u002d4.6\"}"}`, `{"a":"{\"model\":\"claude-x\",\"b\":\"claude-x\"}"}`},
		{"z-ai/glm", `{"a":"{\"b\":\"z-ai\\/glm\"}"}`, `{"a":"{\"b\":\"claude-x\"}"}`},
		{"glm-4.6", `{"a":"line\nglm-4.6\n, C:\\glm-4.6\\"}`, `{"a":"line\nclaude-x\n, C:\\claude-x\\"}`},
		{"new-model", `{"a":"\new-model"}`, `{"a":"\new-model"}`}, // a line break and "ew-model"
		// In longer words.
		{"glm-4.6", `{"a":"models/glm-4.6, glm-4.6-0725, xglm-4.6v, 'glm-4.6'."}`, `{"a":"models/claude-x, claude-x-0725, xclaude-xv, 'claude-x'."}`},
		{"glm-4.6", `{"a":"glm-4.60"}`, `{"a":"claude-x0"}`},
		{"opus", `{"a":"opus, models/opus-1, opusculum, corpus, opus2"}`, `{"a":"claude-x, models/claude-x-1, opusculum, corpus, opus2"}`},
		{"m", `{"message":"m is no model: \"m\" m"}`, `{"message":"claude-x is no model: \"claude-x\" claude-x"}`},
		{"m", `{"a":"line\nm\tm"}`, `{"a":"line\nclaude-x\tclaude-x"}`},
		{"m1", `{"a":"m1 m12 xm1"}`, `{"a":"claude-x m12 xm1"}`},
		// What an error's own frame says.
		{"error", `{"type":"error","error":{"message":"error"}}`, `{"type":"error","error":{"message":"error"}}`},
		{"Type", `{"type":"error"}`, `{"type":"error"}`},
		// No JSON.
		{"glm-4.6", `<p>No model GLM-4.6 (models/glm-4.6)</p>`, `<p>No model claude-x (models/claude-x)</p>`},
		{"glm-4.6", `{"a":"glm\u002d4.6, "glm-4.6`, `{"a":"claude-x, "claude-x`},
		{"glm-4.6", `data: {"a":"glm-4.6"}`, `data: {"a":"claude-x"}`},
		{"new-model", `C:\new-model`, `C:\claude-x`},
		{"glm-4.6", "glm-4.6", "claude-x"},
		{"glm-4.6", "\xff\xfeglm-4.6\xff", "\xff\xfeclaude-x\xff"},
		// Nothing to edit.
		{"glm-4.6", `{"a" : "glm-4.7 \u00e9\/ glm-4" , "b":1e5}`, `{"a" : "glm-4.7 \u00e9\/ glm-4" , "b":1e5}`},
		{"glm-4.6", `{"a":"glm-","b":"4.6"}`, `{"a":"glm-","b":"4.6"}`},
		{"glm-4.6", `glm-4.`, `glm-4.`},
		{"glm-4.6", `glm-4\`, `glm-4\`},
		{"glm-4.6", ``, ``},
		{"", `{"a":""}`, `{"a":""}`},
	} {
		r := Renamer{Sent: test.sent, Asked: "claude-x"}
		body := []byte(test.body)
		if got := r.Error(body); string(got) != test.want {
			t.Errorf("%s in %s:\n got %s\nwant %s", test.sent, test.body, got, test.want)
		}
		if string(body) != test.body {
			t.Errorf("%s: the body was changed in place", test.body)
		}
	}
}

// TestRenamedErrorsBesideTheClientsName: the client's own name is left alone where
// upstream's is a part of it, and is quoted as JSON asks.
func TestRenamedErrorsBesideTheClientsName(t *testing.T) {
	for _, test := range []struct{ asked, sent, body, want string }{
		{"claude-opus-5-20261101", "claude-opus-5", `{"a":"claude-opus-5-20261101, claude-opus-5"}`, `{"a":"claude-opus-5-20261101, claude-opus-5-20261101"}`},
		{"my/glm-4.6", "glm-4.6", `{"a":"my\/glm-4.6 glm-4.6"}`, `{"a":"my\/glm-4.6 my/glm-4.6"}`},
		{"claude-opus-5", "claude-opus-5-20261101", `{"a":"claude-opus-5-20261101, claude-opus-5"}`, `{"a":"claude-opus-5, claude-opus-5"}`},
		{`a"b\c`, "glm-4.6", `{"a":"glm-4.6"}`, `{"a":"a\"b\\c"}`},
		{`a"b\c`, "glm-4.6", `no glm-4.6`, `no a"b\c`},
	} {
		r := Renamer{Sent: test.sent, Asked: test.asked}
		if got := r.Error([]byte(test.body)); string(got) != test.want {
			t.Errorf("%s for %s in %s:\n got %s\nwant %s", test.asked, test.sent, test.body, got, test.want)
		}
	}
}

// FuzzRenamedErrors holds that no text of an error holds upstream's name, that JSON
// stays JSON, and that what does not hold the name stays as it is.
func FuzzRenamedErrors(f *testing.F) {
	f.Add(`{"a":"models/glm\u002D4.6 \\glm-4.6\n","GLM-4.6":[1,"\u0067lm-4.6"]}`)
	f.Add(`<glm-4.6>\u0067lm-4.6`)
	f.Add(`"\ud83d\u0067lm-4.6\\u0067"`)
	f.Fuzz(func(t *testing.T, body string) {
		const sent = "glm-4.6"
		r := Renamer{Sent: sent, Asked: "claude"}
		got := string(r.Error([]byte(body)))
		if strings.Contains(strings.ToLower(got), sent) {
			t.Errorf("%q became %q", body, got)
		}
		if !gjson.Valid(body) {
			return
		}
		if !gjson.Valid(got) {
			t.Fatalf("%q became %q, which is no JSON", body, got)
		}
		var texts func(v gjson.Result) string
		texts = func(v gjson.Result) string {
			if !v.IsObject() && !v.IsArray() {
				return v.Str + "\n"
			}
			all := ""
			v.ForEach(func(key, v gjson.Result) bool { all += key.Str + "\n" + texts(v); return true })
			return all
		}
		if after := texts(gjson.Parse(got)); strings.Contains(strings.ToLower(after), sent) {
			t.Errorf("%q became %q", body, got)
		}
		if before := texts(gjson.Parse(body)); got != body && !strings.Contains(body, `\\`) && !strings.Contains(strings.ToLower(before), sent) {
			t.Errorf("%q holds no name, and became %q", body, got)
		}
	})
}

// TestRenamedErrorEvents: in a stream, named or not, in one line or several, and
// whatever the cutting.
func TestRenamedErrorEvents(t *testing.T) {
	const wrong = `{"type":"error","error":{"type":"invalid_request_error","message":"glm\u002d4.6 and models\/GLM-4.6"}}`
	const right = `{"type":"error","error":{"type":"invalid_request_error","message":"claude-x and models\/claude-x"}}`
	lines := strings.NewReplacer(`"error":{`, "\"error\":\ndata: {")
	written := deltaOf(`{"type":"text_delta","text":"I am glm-4.6"}`)
	for _, events := range [][2]string{
		{failed(wrong), failed(right)},
		{failed(lines.Replace(wrong)), failed(lines.Replace(right))},
		{failed(`glm-4.6 is gone`), failed(`claude-x is gone`)},
		{start + block + written + failed(wrong), start + block + written + failed(right)},
		{start + block + written + failed(`{"type":"error"}`), start + block + written + failed(`{"type":"error"}`)},
		{written + strings.TrimRight(failed(wrong), "\n"), written + strings.TrimRight(failed(right), "\n")},
	} {
		for name, spell := range spellings {
			if name == "comments between" || name == "unnamed" && !strings.Contains(events[0], `"type":"error"`) {
				continue // what has neither name nor type is no error
			}
			stream, want := spell(events[0]), spell(events[1])
			for _, size := range []int{1, 3, 50, len(stream)} {
				r := Renamer{Sent: "glm-4.6", Asked: "claude-x"}
				var out []byte
				for p := stream; len(p) > 0; p = p[min(size, len(p)):] {
					out = r.Stream(out, []byte(p[:min(size, len(p))]))
				}
				if out = r.Rest(out); string(out) != want {
					t.Errorf("%s, in pieces of %d:\n got %q\nwant %q", name, size, out, want)
				}
			}
		}
	}
}

// TestRenamedModelKeys: upstream's name as the value of a `model` key, however it is
// spelt, and as often as the key stands there.
func TestRenamedModelKeys(t *testing.T) {
	for message, want := range map[string]string{
		`{"model":"glm-4.6"}`:                                                    `{"model":"claude-x"}`,
		`{"model" : "glm\u002d4.6"}`:                                             `{"model" : "claude-x"}`,
		`{"model":"GLM-4.6"}`:                                                    `{"model":"claude-x"}`,
		`{"mod\u0065l":"glm-4.6"}`:                                               `{"mod\u0065l":"claude-x"}`,
		`{"model":"a","model":"glm-4.6"}`:                                        `{"model":"a","model":"claude-x"}`,
		`{"model":"glm-4.6","model":"glm-4.6"}`:                                  `{"model":"claude-x","model":"claude-x"}`,
		`{"usage":{"iterations":[{"model":"Glm\u002D4.6"}]}}`:                    `{"usage":{"iterations":[{"model":"claude-x"}]}}`,
		`{"usage":{"iterations":{"model":"glm-4.6"}}}`:                           `{"usage":{"iterations":{"model":"glm-4.6"}}}`,
		`{"Model":"glm-4.6","model":"glm-4.60"}`:                                 `{"Model":"glm-4.6","model":"glm-4.60"}`,
		`{"model":["glm-4.6"],"content":[{"model":"glm-4.6","text":"glm-4.6"}]}`: `{"model":["glm-4.6"],"content":[{"model":"glm-4.6","text":"glm-4.6"}]}`,
		`[{"model":"glm-4.6"}]`:                                                  `[{"model":"glm-4.6"}]`,
	} {
		r := Renamer{Sent: "glm-4.6", Asked: "claude-x"}
		if got := r.Body([]byte(message)); string(got) != want {
			t.Errorf("body:\n got %s\nwant %s", got, want)
		}
		const frame = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":%}\n\n"
		stream := strings.Replace(frame, "%", message, 1)
		if got := r.Stream(nil, []byte(stream)); string(got) != strings.Replace(frame, "%", want, 1) {
			t.Errorf("stream:\n got %s\nwant %s", got, want)
		}
	}
}
