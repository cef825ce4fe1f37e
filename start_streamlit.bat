@echo off
rem Starts the Streamlit page. The backend must run already: start_backend.bat starts it.
rem The page reads its settings from .env in this folder.
rem start_streamlit.bat --no-pause closes the window at the end instead of waiting for a key.
setlocal
set "EXIT_CODE=1"
cd /d "%~dp0"
call scripts\activate_environment.bat
if errorlevel 1 goto failed
python scripts\check_backend.py
if errorlevel 1 goto failed

python scripts\serve_page.py streamlit
set "EXIT_CODE=%errorlevel%"
if "%EXIT_CODE%"=="0" goto finish

:failed
echo.
echo The Streamlit page did not start or stopped with an error. The reason stands above.

:finish
if /i not "%~1"=="--no-pause" pause
exit /b %EXIT_CODE%
