"""
Attacks that have worked on apps of this kind, and where each is tried here.

    a path as a name: runs, uploads       test_choices.py; runs/test_names.py, runs/test_store.py,
                                          ui/test_uploads.py, test_bad_input.py
    a path as data, base or adapter       test_addresses.py, ui/test_paths.py, ui/test_services.py
    a path in a URL, of our routes or     ui/test_routes.py, ui/test_files.py, ui/test_api.py
      Gradio's
    a value that no choice offers         test_choices.py: every handler and endpoint of the page
    an address that the server fetches    test_addresses.py; in place of an upload: test_choices.py
    pickled weights                       test_model_files.py, base_models/test_checkpoint.py,
                                          base_models/test_download.py, chat/test_adapter_files.py
    a model's own code                    test_model_files.py, base_models/test_lookup.py
    a hostile chat template               test_chat_templates.py
    script in text that the page shows    test_script.py: in a browser; ui/test_markup.py,
                                          ui/test_data_view.py, ui/test_publish.py: the card
    somebody else's run                   hub/test_identity.py, ui/test_space.py and its neighbours
    a zip or gzip bomb, a zip with ../    data/test_archives.py, data/test_files.py
    a Parquet file or a recipe that       test_bombs.py, ui/test_draft.py
      unfolds, JSON without end
    a slow regular expression             test_model_files.py
"""
