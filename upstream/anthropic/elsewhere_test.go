package anthropic

import "testing"

func TestHasInputElsewhere(t *testing.T) {
	for _, test := range []struct {
		blocks string // of the last message
		want   bool
	}{
		{`"a text"`, false},
		{`[{"type":"text","text":"\"type\":\"url\", file_id"}]`, false},
		{`[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]`, false},
		{`[{"type":"image","source":{"type":"url","url":"https://example.org/a.png"}}]`, true},
		{`[{"type":"text","text":"x"},{"type":"document","source":{"type":"url","url":"https://example.org/a.pdf"}}]`, true},
		{`[{"type":"document","source":{"type":"file","file_id":"file_1"}}]`, true},
		{`[{"type":"container_upload","file_id":"file_1"}]`, true},
		{`[{"type":"document","source":{"type":"content","content":[{"type":"image","source":{"type":"url"}}]}}]`, true},
		{`[{"type":"document","source":{"type":"content","content":[{"type":"text","text":"url"}]}}]`, false},
		{`[{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"url","url":"u"}}]}]`, true},
		{`[{"type":"tool_result","tool_use_id":"t","content":"url"}]`, false},
		{`[{"type":"image","s\u006furce":{"typ\u0065":"\u0075rl"}}]`, true},
		{`[{"type":"image","source":{"type":"base64","type":"url"}}]`, true},
		{`[{"type":"image","source":{"type":"url","type":"base64"}}]`, false},
		{`[{"type":"tool_use","id":"t","name":"n","input":{"source":{"type":"url"}}}]`, false},
	} {
		r := mustParse(t, `{"model":"m","messages":[{"role":"user","content":"hi"},{"role":"user","content":`+test.blocks+`}]}`)
		if got := r.HasInputElsewhere(); got != test.want {
			t.Errorf("%s: %t", test.blocks, got)
		}
	}
}
