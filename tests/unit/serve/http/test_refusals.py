"""What is asked for in the wrong place or under another name is answered with where it belongs."""


def test_an_option_outside_of_its_request_is_answered_with_its_place(client):
    for path in ("jobs", "plan"):
        error = client.post(f"/api/v1/{path}", json={"prompt": "a fox"}).json()["error"]
        assert error["argument"] == "prompt"
        assert '"request"' in error["message"]


def test_a_path_that_is_none_is_answered_in_the_form_of_its_interface(client):
    for path in ("/api/v1/nothing", "/v1/nothing", "/nothing"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"]
    assert client.get("/sdapi/v1/nothing").json() == {"detail": "Not Found"}
    assert client.get("/api/v1/plan").status_code == 405


def test_a_misspelt_option_is_answered_with_the_nearest(client):
    answer = client.post("/api/v1/jobs", json={"request": {"promt": "a fox"}})
    assert "'prompt'" in answer.json()["error"]["message"]
