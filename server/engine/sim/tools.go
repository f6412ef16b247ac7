package sim

import "encoding/json"

// toolName is the function that a request makes the model call: the first of its
// tools, where it requires one. "" is none. Only the llama flavour's chat does.
func (r *request) toolName() string {
	var tools []struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if string(r.ToolChoice) != `"required"` || json.Unmarshal(r.Tools, &tools) != nil || len(tools) == 0 {
		return ""
	}
	return tools[0].Function.Name
}

// call is a whole call: its one argument is the text that the model would have answered.
func call(j *job, q *sequence) obj {
	args, err := json.Marshal(map[string]string{"text": q.text()})
	if err != nil {
		panic("BUG: a text that is not JSON: " + err.Error())
	}
	return obj{{"type", "function"}, {"function", obj{{"name", j.req.toolName()}, {"arguments", string(args)}}}, {"id", "call-" + j.id}}
}

// callDelta is what a token adds to the arguments of a streamed call.
func callDelta(j *job, q *sequence) obj {
	word, err := json.Marshal(q.last())
	if err != nil {
		panic("BUG: a word that is not JSON: " + err.Error())
	}
	text := string(word[1 : len(word)-1])
	if q.made == 1 {
		text = `{"text":"` + text
	}
	if q.done() {
		text += `"}`
	}
	delta := obj{{"index", 0}}
	function := obj{{"arguments", text}}
	if q.made == 1 {
		delta = append(delta, field{"id", "call-" + j.id}, field{"type", "function"})
		function = obj{{"name", j.req.toolName()}, {"arguments", text}}
	}
	return obj{{"tool_calls", list{append(delta, field{"function", function})}}}
}
