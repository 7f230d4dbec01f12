package anthropic

import "github.com/tidwall/gjson"

// HasInputElsewhere reports whether some of the input is not in the body: images
// and documents that are named by a link or by the id of a file.
func (r *Request) HasInputElsewhere() bool {
	found := false
	r.messages.ForEach(func(_, message gjson.Result) bool {
		found = hasInputElsewhere(lastMember(message, "content"))
		return !found
	})
	return found || hasInputElsewhere(r.system)
}

// hasInputElsewhere looks at a list of content blocks, and at those in the results
// of tools.
func hasInputElsewhere(content gjson.Result) (found bool) {
	if !content.IsArray() {
		return false
	}
	content.ForEach(func(_, block gjson.Result) bool {
		source := lastMember(block, "source")
		switch lastMember(source, "type").Str {
		case "url", "file":
			found = true
		default:
			// The blocks of a tool's result, and of a document that is made of such.
			found = lastMember(block, "file_id").Exists() ||
				hasInputElsewhere(lastMember(block, "content")) || hasInputElsewhere(lastMember(source, "content"))
		}
		return !found
	})
	return found
}

// lastMember is the value of an object's member of that name, the last one where
// several have it, however the name is escaped.
func lastMember(object gjson.Result, name string) (last gjson.Result) {
	if !object.IsObject() {
		return last
	}
	object.ForEach(func(key, value gjson.Result) bool {
		if key.Str == name {
			last = value
		}
		return true
	})
	return last
}
